"""Reports: one page about diagnosed quantized models, as HTML or Markdown."""

from tempoquant.report.write import write_report

__all__ = ["write_report"]
