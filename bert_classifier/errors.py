"""The one error that is the user's to cure: a wrong file, value or flag."""


class BadInput(ValueError):
    """Bad input. The message is one line that names file, line, value and cure.

    The front door prints it on stderr and exits with status 2, without a traceback. Anything that
    is a fault of the program itself keeps its own exception and its traceback.
    """
