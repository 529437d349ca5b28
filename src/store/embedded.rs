//! The private Postgres cluster in the data directory.
