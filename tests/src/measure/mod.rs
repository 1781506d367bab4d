//! What the benchmarks measure with: CPU and memory of a tree of processes ([`processes`]), the
//! spread of repeated measurements ([`spread`]), the table that shows it ([`table`]), and what other
//! clients say of themselves ([`clients`]).

pub mod clients;
pub mod processes;
pub mod spread;
pub mod table;
