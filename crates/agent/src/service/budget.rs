//! A bound on what the requests of the host take while they are being answered: many calls wait, for a process, for a slow reader or
//! until the guest is ready, and each holds its request until then.

use belljar_guest_api::{protobuf::Message, status::Code};
use tokio::sync::{Semaphore, SemaphorePermit};

/// Most bytes of all requests that are being answered. Two whole volumes, and a full chunk for each tunnel, fit at one time.
const MAX_BYTES: usize = 16 << 20;
/// What a request takes at least, in bytes; requests are counted in such units.
const UNIT: usize = 1024;

/// Room for requests.
#[derive(Debug)]
pub(super) struct Budget(Semaphore);

/// The room that a request takes, free again when this ends.
pub(super) type Held<'a> = SemaphorePermit<'a>;

impl Default for Budget {
    fn default() -> Self {
        Self(Semaphore::new(MAX_BYTES / UNIT))
    }
}

impl Budget {
    /// Room for `request`, with all that it brings, known fields or not.
    pub fn take(&self, request: &impl Message) -> ttrpc::Result<Held<'_>> {
        let units = usize::try_from(request.compute_size()).unwrap_or(usize::MAX) / UNIT;
        let units = u32::try_from(units.saturating_add(1)).unwrap_or(u32::MAX);
        self.0.try_acquire_many(units).map_err(|_| {
            Code::ResourceExhausted.error(format!(
                "requests of more than {MAX_BYTES} bytes wait for their answers: wait for some of these"
            ))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use belljar_guest_api::api::{PutVolumeRequest, StatusRequest, VolumeFile};

    #[test]
    fn requests_that_wait_take_room_until_they_are_answered() {
        let budget = Budget::default();
        let volume = |bytes: usize| PutVolumeRequest {
            volume: "v".into(),
            files: vec![VolumeFile { path: "f".into(), data: vec![0; bytes], ..Default::default() }],
            ..Default::default()
        };
        let (large, small) = (volume(3 << 20), StatusRequest::new());
        let held: Vec<_> = (0..5).map(|_| budget.take(&large).unwrap()).collect();
        let error = budget.take(&large).unwrap_err();
        match error {
            ttrpc::Error::RpcStatus(status) => assert_eq!(status.code(), ttrpc::Code::RESOURCE_EXHAUSTED),
            other => panic!("{other:?}"),
        }
        assert!(budget.take(&small).is_ok(), "a smaller one still fits");
        drop(held);
        assert!(budget.take(&large).is_ok());
        // Small ones are bounded in their number.
        let held: Vec<_> = (0..MAX_BYTES / UNIT).map(|_| budget.take(&small).unwrap()).collect();
        assert!(budget.take(&small).is_err());
        drop(held);
    }

    #[test]
    fn fields_that_nobody_knows_take_room_too() {
        let mut padded = StatusRequest::new();
        padded.special_fields.mut_unknown_fields().add_length_delimited(99, vec![0; 9 << 20]);
        let budget = Budget::default();
        let _held = budget.take(&padded).unwrap();
        assert!(budget.take(&padded).is_err());
        assert!(budget.take(&StatusRequest::new()).is_ok());
    }
}
