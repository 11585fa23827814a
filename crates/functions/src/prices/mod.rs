//! What things cost: exact money, dated price tables, and the tariff that charges a peer's work.
//!
//! Prices are data ([`PriceTable`], TOML with a date and a source for each entry); a [`Tariff`] says
//! which of them apply to a peer; [`Tariff::charge`] is a pure function of what was used. Nothing is
//! rounded before it is printed.

mod money;
mod table;
mod tariff;

pub use money::{Money, Price, PriceError};
pub use table::{BucketPrice, EgressPrice, FunctionPrice, MachinePrice, PriceTable, TableError};
pub use tariff::{Charge, Named, PlatformRate, Tariff, UnknownPrice, Usage};
