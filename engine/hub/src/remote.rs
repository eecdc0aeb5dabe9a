//! Records between shards: what a home is asked and what it answers, as bytes.
