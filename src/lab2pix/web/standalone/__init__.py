"""The painter as static files that need no server: the generator runs in the browser with ONNX Runtime Web."""

from lab2pix.web.standalone.export import RUNTIME_PACKAGE, StandalonePage, export_page

__all__ = ["RUNTIME_PACKAGE", "StandalonePage", "export_page"]
