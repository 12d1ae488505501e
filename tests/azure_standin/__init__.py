"""A stand-in for Azure on loopback, to which the unmodified SDK can submit."""

from .server import Fault, Standin
from .wire import Request

__all__ = ["Fault", "Request", "Standin"]
