"""The embedded suite: tasks in GLUE's shapes from grammars of our own, with a named phenomenon for every example."""

from normtune.data.templates.layout import read_phenomena, write
from normtune.data.templates.suite import PHENOMENA, TEMPLATES, generate

__all__ = ["PHENOMENA", "TEMPLATES", "generate", "read_phenomena", "write"]
