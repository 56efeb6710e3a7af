"""TRAIL: popularity of the next window, predicted and explained (`rlrec.data.popularity` makes the samples).

`similarity` needs the extra `trail` (numba), so nothing is imported here.
"""
