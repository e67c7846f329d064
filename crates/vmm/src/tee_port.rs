//! Serves the port on which the guest asks the software secure processor for reports.
//!
//! A VM gets reports about itself only: the measurement is taken once from the QEMU process that owns the port. The
//! service is for the software TEE; on hardware the guest asks its own CPU.

use std::fmt::Debug;
use std::sync::{Arc, OnceLock};

use belljar_guest_api::softport::{FrameError, REQUEST_LEN, Request, Response};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

/// Most reports that one pod VM gets. An honest guest needs one at start and one for each challenge.
pub const MAX_REPORTS: u32 = 4096;

/// Something that measures QEMU processes and writes reports about them.
pub trait SecureProcessor: Debug + Send + Sync {
    /// Measures what the process was really given. Blocks: it reads files. Errors are one line.
    fn measure(&self, qemu: u32) -> Result<Box<dyn Measured>, String>;
}

/// A measured pod VM.
pub trait Measured: Send + Sync {
    /// A report with this REPORT_DATA, and its certificate table. Errors are one line.
    fn report(&self, report_data: &[u8; 64]) -> Result<(Vec<u8>, Vec<u8>), String>;
}

/// Why the service has ended before the VM.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TeePortError {
    /// The guest sent something other than a request.
    #[error("the guest sent no request on the TEE port: {0}")]
    Frame(#[from] FrameError),
    /// The guest asked too often.
    #[error("the guest asked for more than {MAX_REPORTS} reports")]
    TooMany,
    /// The processor's report is longer than a frame may be.
    #[error("the secure processor's report fits no frame: {0}")]
    Report(FrameError),
    /// The port failed.
    #[error("TEE port: {0}")]
    Io(#[from] std::io::Error),
}

/// The end of the service, readable by the owner of the pod.
pub(crate) type Ended = Arc<OnceLock<TeePortError>>;

/// Answers requests until QEMU closes the port.
pub(crate) async fn serve(
    mut port: UnixStream,
    processor: Option<Arc<dyn SecureProcessor>>,
    qemu: u32,
) -> Result<(), TeePortError> {
    // At once, while the guest boots, so that the first request finds the answer ready.
    let measured = tokio::task::spawn_blocking(move || match processor {
        Some(processor) => processor.measure(qemu),
        None => Err("this pod VM was started without a secure processor".into()),
    });
    let measured: Result<Arc<dyn Measured>, String> = match measured.await {
        Ok(measured) => measured.map(Arc::from),
        Err(_) => Err("the secure processor failed while measuring".into()),
    };
    if let Err(error) = &measured {
        tracing::warn!(%error, "no measurement of the pod VM");
    }
    let mut frame = [0; REQUEST_LEN];
    for _ in 0..MAX_REPORTS {
        match port.read_exact(&mut frame).await {
            Ok(_) => {}
            Err(e) if matches!(e.kind(), std::io::ErrorKind::UnexpectedEof | std::io::ErrorKind::ConnectionReset) => {
                return Ok(());
            }
            Err(e) => return Err(e.into()),
        }
        let request = Request::decode(&frame)?;
        let response = match &measured {
            Ok(measured) => {
                let measured = measured.clone();
                let report = tokio::task::spawn_blocking(move || measured.report(&request.report_data)).await;
                match report {
                    Ok(Ok((report, aux))) => Response::Report { report, aux },
                    Ok(Err(error)) => Response::Error(error),
                    Err(_) => Response::Error("the secure processor failed".into()),
                }
            }
            Err(error) => Response::Error(error.clone()),
        };
        port.write_all(&response.encode().map_err(TeePortError::Report)?).await?;
    }
    Err(TeePortError::TooMany)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Echo;

    impl SecureProcessor for Echo {
        fn measure(&self, qemu: u32) -> Result<Box<dyn Measured>, String> {
            match qemu {
                7 => Ok(Box::new(Self)),
                _ => Err("no such process".into()),
            }
        }
    }

    impl Measured for Echo {
        fn report(&self, report_data: &[u8; 64]) -> Result<(Vec<u8>, Vec<u8>), String> {
            Ok((report_data.to_vec(), vec![1]))
        }
    }

    async fn ask(qemu: u32, frame: &[u8]) -> (Vec<u8>, Result<(), TeePortError>) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let service = tokio::spawn(serve(theirs, Some(Arc::new(Echo)), qemu));
        let (mut read, mut write) = ours.into_split();
        write.write_all(frame).await.unwrap();
        drop(write);
        let mut answer = Vec::new();
        read.read_to_end(&mut answer).await.ok();
        (answer, service.await.unwrap())
    }

    #[tokio::test]
    async fn a_request_gets_a_report_about_this_process() {
        let request = Request { report_data: [9; 64] };
        let (answer, end) = ask(7, &request.encode()).await;
        assert_eq!(Response::decode(&answer), Ok(Response::Report { report: vec![9; 64], aux: vec![1] }));
        assert!(end.is_ok());
    }

    #[tokio::test]
    async fn an_unmeasured_process_gets_an_error() {
        let (answer, end) = ask(8, &Request { report_data: [9; 64] }.encode()).await;
        assert_eq!(Response::decode(&answer), Ok(Response::Error("no such process".into())));
        assert!(end.is_ok());
    }

    #[tokio::test]
    async fn a_bad_frame_ends_the_service() {
        let mut frame = Request { report_data: [9; 64] }.encode();
        frame[5] = 2;
        let (answer, end) = ask(7, &frame).await;
        assert!(answer.is_empty());
        assert!(matches!(end, Err(TeePortError::Frame(FrameError::Kind { found: 2 }))), "{end:?}");
    }
}
