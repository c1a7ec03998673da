"""What an evaluation says: estimators, intervals, support sets, comparisons, and the role a stage really played."""
