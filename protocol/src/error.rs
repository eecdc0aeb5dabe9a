//! What can go wrong, by whose fault it is, and the one table that maps it to the wire.
