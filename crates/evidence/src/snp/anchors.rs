//! Trust anchors: AMD's root keys, compiled in.

use super::cert::Certificate;
use crate::anchors::Root;

/// AMD's certificates as its key distribution service publishes them, DER.
pub mod builtin {
    /// Root, SEV key and SEV-VLEK key of one product line.
    #[derive(Clone, Copy, Debug)]
    pub struct Authority {
        /// Product line, as in the certificates' names.
        pub product: &'static str,
        /// ARK: the root.
        pub ark: &'static [u8],
        /// ASK: signs VCEKs.
        pub ask: &'static [u8],
        /// ASVK: signs VLEKs.
        pub asvk: &'static [u8],
    }

    /// The product lines that are compiled in. Their SHA-256 digests are pinned by a test.
    pub const AMD: [Authority; 3] = [
        Authority {
            product: "Milan",
            ark: include_bytes!("../../data/amd/milan-ark.der"),
            ask: include_bytes!("../../data/amd/milan-ask.der"),
            asvk: include_bytes!("../../data/amd/milan-asvk.der"),
        },
        Authority {
            product: "Genoa",
            ark: include_bytes!("../../data/amd/genoa-ark.der"),
            ask: include_bytes!("../../data/amd/genoa-ask.der"),
            asvk: include_bytes!("../../data/amd/genoa-asvk.der"),
        },
        Authority {
            product: "Turin",
            ark: include_bytes!("../../data/amd/turin-ark.der"),
            ask: include_bytes!("../../data/amd/turin-ask.der"),
            asvk: include_bytes!("../../data/amd/turin-asvk.der"),
        },
    ];
}

/// The roots that a verification trusts.
pub type Anchors = crate::anchors::Anchors<Certificate>;

impl Anchors {
    /// AMD's roots alone: what production trusts.
    pub fn amd() -> Self {
        builtin::AMD.iter().fold(Self::none(), |anchors, authority| anchors.with(authority.ark, Root::Amd))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// SHA-256 over the DER, in the order ARK, ASK, ASVK.
    const PINS: [(&str, [&str; 3]); 3] = [
        (
            "Milan",
            [
                "69d063b45344d26a2e94e1f4210de49ef555308287d4c174445c95639a540bcd",
                "67d303bd3905fd38db8b20e0793699870e7fa612eaad5dec358293fd8c0bac1b",
                "c5e081f59b7efab1fe2f8b505e159704e72f29cab7ef7cf628a05a42439082f5",
            ],
        ),
        (
            "Genoa",
            [
                "4c6598d19c18719c5dfd4a7d335f674e5bfe1d8f800cea2cf270c10d103db2f1",
                "5464738c1546aed5f2cecf1dc98c5c960a92e8913238a61711bc90ec6e828521",
                "197e610743a917d6b9bb982a5a9226ccc0a15b611be0619e626aca9151457372",
            ],
        ),
        (
            "Turin",
            [
                "1f084161a44bb6d93778a904877d4819cafa5d05ef4193b2ded9dd9c73dd3f6a",
                "5b77ef5fe7a7a004fd9032668fba9d0fda22f88c4442069a479636a6ae3b3185",
                "104e10a8bd060a3c20a434261a57d0588fd65a88915b4f65b08bdecaf8df1a3c",
            ],
        ),
    ];

    #[test]
    fn compiled_in_certificates_are_the_pinned_ones() {
        for (authority, (product, pins)) in builtin::AMD.iter().zip(PINS) {
            assert_eq!(authority.product, product);
            for (der, pin) in [authority.ark, authority.ask, authority.asvk].iter().zip(pins) {
                let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, der);
                assert_eq!(hex::encode(digest), pin, "{product}");
            }
        }
    }
}
