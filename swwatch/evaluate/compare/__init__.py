"""Whether two runs differ by more than chance."""

METHOD = (
    "difference: B - A; interval: percentile bootstrap over clips, paired; p: approximate randomization, two-sided, "
    "not corrected for the number of metrics looked at. METEOR-mean is the mean of METEOR's clip values, not its "
    "aggregate; CIDEr's word weights are those of the common clips. What differs by training seed is not in it."
)
