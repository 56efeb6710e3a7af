"""ExpCTR between the stages: its arguments, the run that holds the parts together, and the rows of its table."""

from rlrec.expctr.arguments import ExpCTRArguments

__all__ = ["ExpCTRArguments"]
