"""The version, in code: on a cluster the package travels in a job's folder, where it is not installed."""

VERSION = "0.2.0"
