//! What may be submitted: the bounds that the encoder asserts and the replicas enforce.

use wire::change::CHANGE_BYTES;
use wire::limits::{KEY_BYTES_MAX, REQUEST_BYTES_MAX, SCAN_ENTRIES_MAX, VALUE_BYTES_MAX};
use wire::ops::Operation;
use wire::request::REQUEST_HEAD_BYTES;

use crate::options::SubmitError;

/// Bytes of an operation in a request; a transaction that is passed on counts as a whole one.
pub(super) fn encoded_bytes(operation: &Operation<'_>) -> usize {
    const HEAD_BYTES: usize = 12;
    HEAD_BYTES
        + match operation {
            Operation::Put { key, value } => key.len() + value.len(),
            Operation::Get { key } | Operation::Delete { key } => key.len(),
            Operation::Cas {
                key,
                expected,
                value,
            } => key.len() + value.len() + expected.map_or(0, <[u8]>::len),
            Operation::Scan { from, to, .. } => from.len() + to.len() + 4,
            Operation::Reconfigure(_) => CHANGE_BYTES,
            Operation::Txn(_) => REQUEST_BYTES_MAX,
        }
}

/// Checks the bounds that the encoder asserts and the replicas enforce.
pub(super) fn check_operation(operation: &Operation<'_>) -> Result<(), SubmitError> {
    let key_fits = |key: &[u8]| {
        if key.is_empty() || key.len() > KEY_BYTES_MAX {
            Err(SubmitError::KeyLength)
        } else {
            Ok(())
        }
    };
    let value_fits = |value: &[u8]| {
        if value.len() > VALUE_BYTES_MAX {
            Err(SubmitError::ValueTooLong)
        } else {
            Ok(())
        }
    };
    match operation {
        Operation::Put { key, value } => key_fits(key).and_then(|()| value_fits(value)),
        Operation::Get { key } | Operation::Delete { key } => key_fits(key),
        Operation::Cas {
            key,
            expected,
            value,
        } => {
            key_fits(key)?;
            value_fits(value)?;
            value_fits(expected.unwrap_or_default())?;
            if encoded_bytes(operation) + REQUEST_HEAD_BYTES > REQUEST_BYTES_MAX {
                return Err(SubmitError::TooLarge);
            }
            Ok(())
        }
        Operation::Scan { from, to, limit } => {
            if from.len() > KEY_BYTES_MAX || to.len() > KEY_BYTES_MAX {
                return Err(SubmitError::KeyLength);
            }
            if *limit as usize > SCAN_ENTRIES_MAX {
                return Err(SubmitError::ScanLimit);
            }
            Ok(())
        }
        Operation::Txn(_) | Operation::Reconfigure(_) => Ok(()),
    }
}

/// Whether an operation can change the state.
pub(super) fn is_write(operation: &Operation<'_>) -> bool {
    !matches!(operation, Operation::Get { .. } | Operation::Scan { .. })
}

/// Whether a transaction may hold it.
pub(super) fn is_simple(operation: &Operation<'_>) -> bool {
    !matches!(
        operation,
        Operation::Txn(_) | Operation::Scan { .. } | Operation::Reconfigure(_)
    )
}
