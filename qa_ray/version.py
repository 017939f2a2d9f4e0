"""The version of qa-ray: here too, since code that travels to a cluster in a job's folder is installed nowhere."""

VERSION = "0.1.0"
