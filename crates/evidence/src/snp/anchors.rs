//! Trust anchors: AMD's root keys, compiled in, and whatever root the caller adds.

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

/// Whose root a chain ends in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Root {
    /// AMD's, compiled in.
    Amd,
    /// That of a software TEE, added by the caller: protects nothing.
    Software,
    /// A root for tests, added by the caller.
    Test,
}

/// The roots that a verification trusts.
#[derive(Clone, Debug)]
pub struct Anchors {
    roots: Vec<(Vec<u8>, Root)>,
}

impl Anchors {
    /// AMD's roots alone: what production trusts.
    pub fn amd() -> Self {
        Self { roots: builtin::AMD.iter().map(|authority| (authority.ark.to_vec(), Root::Amd)).collect() }
    }

    /// No root at all.
    pub fn none() -> Self {
        Self { roots: Vec::new() }
    }

    /// That root alone: one of AMD's stays AMD's, any other is a root for tests.
    pub fn only(der: &[u8]) -> Self {
        let mut anchors = Self::amd();
        anchors.roots.retain(|(root, _)| root == der);
        anchors.with_test_root(der)
    }

    /// Trusts the root of a software TEE, too; verdicts under it have `software` and the flag `software-tee`.
    #[must_use]
    pub fn with_software_root(self, der: &[u8]) -> Self {
        self.with(der, Root::Software)
    }

    /// Trusts a root for tests, too; verdicts under it have `software` and the flag `test-root`.
    #[must_use]
    pub fn with_test_root(self, der: &[u8]) -> Self {
        self.with(der, Root::Test)
    }

    /// Whose root this certificate is; `None` when it is not trusted.
    pub fn root(&self, der: &[u8]) -> Option<Root> {
        self.roots.iter().find(|(anchor, _)| anchor == der).map(|(_, root)| *root)
    }

    pub(super) fn certificates(&self) -> impl Iterator<Item = &[u8]> {
        self.roots.iter().map(|(der, _)| der.as_slice())
    }

    fn with(mut self, der: &[u8], root: Root) -> Self {
        // An anchor of AMD stays one, whatever the caller calls it.
        if self.root(der).is_none() {
            self.roots.push((der.to_vec(), root));
        }
        self
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

    #[test]
    fn a_vendor_root_added_as_software_stays_the_vendors() {
        let ark = builtin::AMD[0].ark;
        assert_eq!(Anchors::amd().with_software_root(ark).root(ark), Some(Root::Amd));
        assert_eq!(Anchors::none().with_software_root(ark).root(ark), Some(Root::Software));
        assert_eq!(Anchors::none().root(ark), None);
        let only = Anchors::only(ark);
        assert_eq!((only.root(ark), only.root(builtin::AMD[1].ark)), (Some(Root::Amd), None));
        assert_eq!(Anchors::only(b"another").root(b"another"), Some(Root::Test));
    }
}
