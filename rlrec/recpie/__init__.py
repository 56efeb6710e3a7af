"""RecPIE between the steps of its algorithm: arguments, prompts, the run that holds the parts together, its rows."""

from rlrec.recpie.arguments import RecPIEArguments

__all__ = ["RecPIEArguments"]
