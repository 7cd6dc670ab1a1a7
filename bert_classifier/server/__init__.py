"""An HTTP server that answers with an exported model."""
