//! peer

pub mod identity;
pub mod ticket;
pub mod transport;
