# The server of an ONNX export, without TensorFlow:
#
#     docker build -t bert-classifier .
#     docker run -p 8501:8501 -v "$PWD/models/mrpc/onnx:/models:ro" bert-classifier
#
# This image has not been built by the tests.
FROM python:3.11-slim

WORKDIR /srv
COPY pyproject.toml README.md *.py ./
COPY bert_classifier bert_classifier
RUN pip install --no-cache-dir '.[onnx,server]' 'starlette==0.49.3' 'uvicorn==0.39.0' \
    'httptools==0.7.1' 'prometheus_client==0.22.1' \
    && useradd --system --no-create-home server

USER server
EXPOSE 8501
HEALTHCHECK CMD ["python", "-c", \
    "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8501/readyz', timeout=3)"]
# Of all of the container's network: docker's -p decides who reaches it.
ENTRYPOINT ["python", "-m", "bert_classifier.serve", "--host=0.0.0.0"]
CMD ["/models"]
