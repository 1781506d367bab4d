//! Measuring, for the benchmarks: CPU and memory of a process tree ([`processes`]), the spread of
//! repeated measurements ([`spread`]), the table that shows it ([`table`]), and the output of other
//! clients ([`clients`]).

pub mod clients;
pub mod processes;
pub mod spread;
pub mod table;
