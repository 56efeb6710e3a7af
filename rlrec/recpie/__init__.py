"""RecPIE between the steps of its algorithm: arguments, prompts, the run that holds the parts together, its rows."""

from rlrec.recpie.arguments import RecPIEArguments
from rlrec.recpie.run import RecPIERun

__all__ = ["RecPIEArguments", "RecPIERun"]
