//! The attestation to the broker that the contract pins, and the secrets that it releases.

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use belljar_contract::Contract;
use belljar_guest_api::{limits::one_line, names::BROKER_TARGET};
use belljar_rcar::{Client, ClientError, InitData, ResourceUri, SpkiPin, Step};
use tokio::{sync::watch, time::timeout};
use zeroize::Zeroizing;

use crate::{
    guest::Guest,
    initdata::Bound,
    refusal::{Kind, Refusal},
    tee::Attester,
};

/// Longest time for the whole handshake with all secrets.
const TIME_LIMIT: Duration = Duration::from_secs(25);

/// What the broker released. Its contents are not printable.
#[derive(Clone, Default)]
pub struct Released {
    /// Contents by resource URI, as the contract writes it.
    pub resources: BTreeMap<String, Arc<Zeroizing<Vec<u8>>>>,
    /// The broker's attestation token, a compact JWT; none when nobody was asked.
    pub token: Option<Arc<Zeroizing<String>>>,
}

impl fmt::Debug for Released {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Released").field("resources", &self.resources.keys()).finish_non_exhaustive()
    }
}

/// Attests to the pinned broker over a tunnel and fetches every secret of the contract. A contract without a broker asks
/// nobody.
pub async fn fetch(guest: &Guest, bound: &Bound, attester: &Arc<dyn Attester>) -> Result<Released, Refusal> {
    let Some(broker) = &bound.contract.broker else {
        return Ok(Released::default());
    };
    let pin: SpkiPin = broker.spki_sha256.parse().map_err(|error| Refusal::new(Kind::Contract, error))?;
    let tunnel = guest.tunnels.open(BROKER_TARGET).map_err(|error| Refusal::new(Kind::Broker, error))?;
    let reason = tunnel.reason();
    let handshake = async {
        let board = &guest.board;
        let failed = |error: ClientError| explain(&error, None, &reason);
        let mut client = Client::connect(tunnel, pin).await.map_err(failed)?;
        let report_data = board
            .timed_async("attestation.auth", client.auth(attester.format().tee()))
            .await
            .map_err(|error| explain(&error, None, &reason))?;
        let evidence = board.timed_async("attestation.report", evidence(attester, report_data)).await?;
        let init_data = Some(InitData::toml(bound.document.as_str()));
        let attest = board.timed_async("attestation.attest", client.attest(&evidence, init_data)).await;
        let token =
            attest.map(|token| Zeroizing::new(token.token.clone())).map_err(|error| explain(&error, None, &reason))?;
        let resources =
            board.timed_async("attestation.resources", resources(&mut client, &bound.contract, &reason)).await?;
        client.close().await;
        Ok(Released { resources, token: Some(Arc::new(token)) })
    };
    match timeout(TIME_LIMIT, handshake).await {
        Ok(outcome) => outcome,
        Err(_) => {
            let host = host_says(&reason);
            let seconds = TIME_LIMIT.as_secs();
            let message =
                format!("broker did not finish within {seconds} s{host}; check that it runs and can be reached");
            Err(Refusal::new(Kind::Broker, message))
        }
    }
}

async fn evidence(attester: &Arc<dyn Attester>, report_data: [u8; 64]) -> Result<belljar_rcar::Evidence, Refusal> {
    let attester = attester.clone();
    let report = tokio::task::spawn_blocking(move || {
        let report = attester.report(&report_data)?;
        report.register(&report_data)?;
        report.evidence()
    });
    match report.await {
        Ok(evidence) => evidence.map_err(|error| Refusal::new(Kind::Attestation, error)),
        Err(error) => Err(Refusal::new(Kind::Internal, error)),
    }
}

async fn resources(
    client: &mut Client,
    contract: &Contract,
    reason: &watch::Receiver<Option<String>>,
) -> Result<BTreeMap<String, Arc<Zeroizing<Vec<u8>>>>, Refusal> {
    let mut contents = BTreeMap::new();
    for secret in contract.containers.values().flat_map(|container| &container.secrets) {
        if contents.contains_key(&secret.resource) {
            continue;
        }
        let uri: ResourceUri = secret.resource.parse().map_err(|error| Refusal::new(Kind::Contract, error))?;
        let content = client.resource(&uri).await.map_err(|error| explain(&error, Some(&secret.name), reason))?;
        contents.insert(secret.resource.clone(), Arc::new(content));
    }
    Ok(contents)
}

/// A refusal out of a failed step: what kind it is depends on who said no.
fn explain(error: &ClientError, secret: Option<&str>, reason: &watch::Receiver<Option<String>>) -> Refusal {
    let kind = match error {
        ClientError::Refused { step: Step::Resource, .. } | ClientError::Decrypt(_) => Kind::Secret,
        ClientError::Refused { .. } => Kind::Attestation,
        ClientError::Key(_) | ClientError::Order { .. } => Kind::Internal,
        _ => Kind::Broker,
    };
    let secret = secret.map(|name| format!("secret {}: ", one_line(name))).unwrap_or_default();
    let host = match error {
        ClientError::Transport { .. } => host_says(reason),
        _ => String::new(),
    };
    Refusal::new(kind, format!("{secret}{error}{host}"))
}

/// What the host gave as its reason for closing the tunnel.
fn host_says(reason: &watch::Receiver<Option<String>>) -> String {
    match reason.borrow().as_deref() {
        Some(text) if !text.trim().is_empty() => format!(" (host: {})", text.trim()),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(step: Step) -> ClientError {
        ClientError::Refused { step, status: 401, kind: "PolicyDeny".into(), detail: "measurement".into() }
    }

    #[test]
    fn the_kind_says_who_refused() {
        let reason = watch::Sender::new(None).subscribe();
        let kind = |error, secret| explain(&error, secret, &reason).kind;
        assert_eq!(kind(refused(Step::Attest), None), Kind::Attestation);
        assert_eq!(kind(refused(Step::Auth), None), Kind::Attestation);
        assert_eq!(kind(refused(Step::Resource), Some("key")), Kind::Secret);
        assert_eq!(kind(ClientError::Broker { step: Step::Attest, status: 500 }, None), Kind::Broker);
        let refusal = explain(&refused(Step::Resource), Some("key"), &reason);
        assert_eq!(refusal.message, "secret key: broker refused resource (401 PolicyDeny): measurement");
    }

    #[test]
    fn the_hosts_reason_is_quoted_when_the_broker_is_away() {
        let sender = watch::Sender::new(Some("connection refused".to_owned()));
        let pin = SpkiPin([1; 32]);
        let other = ClientError::PinMismatch { expected: pin, found: SpkiPin([2; 32]) };
        assert!(!explain(&other, None, &sender.subscribe()).message.contains("connection refused"));
        assert_eq!(host_says(&sender.subscribe()), " (host: connection refused)");
        assert_eq!(host_says(&watch::Sender::new(None).subscribe()), "");
    }
}
