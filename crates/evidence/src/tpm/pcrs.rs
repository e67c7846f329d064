//! Values of platform configuration registers.

use std::collections::BTreeMap;

use serde::ser::{Serialize, SerializeMap, Serializer};

use super::Hash;

/// Registers of a bank.
const REGISTERS: u8 = 24;

/// Why values are not those of a bank.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PcrsError {
    /// A register that no TPM of a PC has.
    #[error("values are for register {0}, registers are 0 to 23: give the values of one bank")]
    Register(usize),
    /// A value of another length than the bank's digests.
    #[error("value of register {register} has {found} bytes instead of {expected}: give the values of one bank")]
    Length {
        /// The register.
        register: u8,
        /// Bytes found.
        found: usize,
        /// Bytes of the bank's digests.
        expected: usize,
    },
}

/// Values of the registers of one bank. Alone they are worth nothing: a quote makes them so.
///
/// Serialises to an object of `pcr00` to `pcr23`, lowercase hex.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pcrs {
    /// The bank.
    pub hash: Hash,
    values: BTreeMap<u8, Vec<u8>>,
}

impl Pcrs {
    /// Values of registers 0, 1, 2 and so on.
    ///
    /// # Errors
    /// Any [`PcrsError`].
    pub fn from_first(hash: Hash, values: impl IntoIterator<Item = Vec<u8>>) -> Result<Self, PcrsError> {
        let mut pcrs = Self { hash, values: BTreeMap::new() };
        for (register, value) in values.into_iter().enumerate() {
            let register = u8::try_from(register).map_err(|_| PcrsError::Register(register))?;
            pcrs.set(register, value)?;
        }
        Ok(pcrs)
    }

    /// No values yet.
    pub fn none(hash: Hash) -> Self {
        Self { hash, values: BTreeMap::new() }
    }

    /// Sets one value.
    ///
    /// # Errors
    /// Any [`PcrsError`].
    pub fn set(&mut self, register: u8, value: Vec<u8>) -> Result<(), PcrsError> {
        if register >= REGISTERS {
            return Err(PcrsError::Register(usize::from(register)));
        }
        let expected = self.hash.size();
        if value.len() != expected {
            return Err(PcrsError::Length { register, found: value.len(), expected });
        }
        self.values.insert(register, value);
        Ok(())
    }

    /// One value.
    pub fn get(&self, register: u8) -> Option<&[u8]> {
        self.values.get(&register).map(Vec::as_slice)
    }

    /// The registers that have a value, ascending.
    pub fn registers(&self) -> impl Iterator<Item = u8> {
        self.values.keys().copied()
    }
}

impl Serialize for Pcrs {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.values.len()))?;
        for (register, value) in &self.values {
            map.serialize_entry(&format!("pcr{register:02}"), &hex::encode(value))?;
        }
        map.end()
    }
}
