"""Several seeds of a configuration: means, intervals, and the race that decides which configurations get more seeds."""
