//! What we remember: Postgres is the truth, Redis a cache.

pub mod embedded;
