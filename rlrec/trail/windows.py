"""The dataset and the popularity windows that TRAIL's arguments describe, for its run and for the rows beside it."""

from collections.abc import Callable

from rlrec.arguments import DataArguments
from rlrec.data import PreparedDataset
from rlrec.data.popularity import PopularityData, popularity_data
from rlrec.experiment import load_prepared
from rlrec.trail.arguments import TRAILArguments


def load_windows(
    arguments: TRAILArguments, data: DataArguments, seed: int, progress: Callable = print
) -> tuple[PreparedDataset, PopularityData]:
    """The prepared dataset, and its windows with the samples to train on and to rank.

    Raises:
        ValueError, OSError: settings or data that cannot be used.
    """
    prepared = load_prepared(data, seed, progress)
    popularity = popularity_data(
        prepared,
        window_days=arguments.window_days,
        cold=arguments.cold,
        validation_windows=arguments.validation_windows,
        test_windows=arguments.test_windows,
    )
    return prepared, popularity
