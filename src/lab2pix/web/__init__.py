"""Web pages served from this machine: the painter and the user study."""

from importlib.util import find_spec

from lab2pix.errors import ConfigError
from lab2pix.utils.extras import install_command

__all__ = ["require_web_extra"]


def require_web_extra() -> None:
    """Check that the packages of the extra `web` are installed.

    Raises:
        ConfigError: one is missing.
    """
    if missing := [name for name in ("fastapi", "uvicorn") if find_spec(name) is None]:
        raise ConfigError(f"this page needs {' and '.join(missing)}; install the extra 'web': {install_command('web')}")
