"""kbackupd: continuous, verifiable backup of Apache Kafka, and its restore."""

__version__ = "0.1.0"
