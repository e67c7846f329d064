//! What authentic evidence is rated: the first level that is reached, lowered by its parts, and freshness.

use belljar_evidence::Decision;
use belljar_evidence::dcap::{Freshness, Missing, Options, Status};
use belljar_testpki::intel::{Made, TdShape, World};
use belljar_testpki::{NOW, rfc3339};
use libtest_mimic::{Failed, Trial};
use serde_json::json;

use crate::{Base, ensure, judge};

use Base::{Sgx3, Tdx4};
use Status::{
    ConfigurationAndSWHardeningNeeded, ConfigurationNeeded, NotSupported, OutOfDate, OutOfDateConfigurationNeeded,
    Revoked, SWHardeningNeeded, UpToDate,
};

/// A case: name, world, change, and the statuses of the platform and of everything.
type Case = (&'static str, Base, fn(&mut World), Status, Status);

/// Gives the newest level that status.
fn newest(world: &mut World, status: &str) {
    world.tcb_info.content["tcbLevels"][0]["tcbStatus"] = status.into();
}

/// A quoting enclave below the newest level of its identity.
fn old_qe(world: &mut World) {
    world.quote.qe.isv_svn = 7;
}

const CASES: &[Case] = &[
    ("up_to_date", Tdx4, |_| (), UpToDate, UpToDate),
    ("sgx_up_to_date", Sgx3, |_| (), UpToDate, UpToDate),
    ("sw_hardening", Sgx3, |w| newest(w, "SWHardeningNeeded"), SWHardeningNeeded, SWHardeningNeeded),
    ("configuration", Sgx3, |w| newest(w, "ConfigurationNeeded"), ConfigurationNeeded, ConfigurationNeeded),
    (
        "configuration_and_sw_hardening",
        Tdx4,
        |w| newest(w, "ConfigurationAndSWHardeningNeeded"),
        ConfigurationAndSWHardeningNeeded,
        ConfigurationAndSWHardeningNeeded,
    ),
    ("out_of_date_by_intel", Tdx4, |w| newest(w, "OutOfDate"), OutOfDate, OutOfDate),
    (
        "out_of_date_configuration",
        Tdx4,
        |w| newest(w, "OutOfDateConfigurationNeeded"),
        OutOfDateConfigurationNeeded,
        OutOfDateConfigurationNeeded,
    ),
    ("revoked", Sgx3, |w| newest(w, "Revoked"), Revoked, Revoked),
    ("one_component_below", Sgx3, |w| w.sgx().components[15] = 4, OutOfDate, OutOfDate),
    ("one_component_above", Sgx3, |w| w.sgx().components[15] = 6, UpToDate, UpToDate),
    ("pce_below", Tdx4, |w| w.sgx().pce_svn = 12, OutOfDate, OutOfDate),
    ("pce_below_every_level", Tdx4, |w| w.sgx().pce_svn = 10, NotSupported, NotSupported),
    ("below_every_level", Sgx3, |w| w.sgx().components[0] = 2, NotSupported, NotSupported),
    ("no_levels", Sgx3, |w| w.tcb_info.content["tcbLevels"] = json!([]), NotSupported, NotSupported),
    ("tdx_component_below", Tdx4, |w| w.td().tee_tcb_svn[2] = 3, OutOfDate, OutOfDate),
    ("module_out_of_date", Tdx4, |w| w.td().tee_tcb_svn[0] = 3, UpToDate, OutOfDate),
    ("module_below_every_level", Tdx4, |w| w.td().tee_tcb_svn[0] = 1, UpToDate, NotSupported),
    (
        "module_revoked",
        Tdx4,
        |w| w.tcb_info.content["tdxModuleIdentities"][0]["tcbLevels"][0]["tcbStatus"] = "Revoked".into(),
        UpToDate,
        Revoked,
    ),
    (
        "module_without_a_major_version_counts_as_a_component",
        Tdx4,
        |w| {
            w.td().tee_tcb_svn[0] = 3;
            w.td().tee_tcb_svn[1] = 0;
        },
        OutOfDate,
        OutOfDate,
    ),
    ("qe_out_of_date", Tdx4, old_qe, UpToDate, OutOfDate),
    ("qe_below_every_level", Sgx3, |w| w.quote.qe.isv_svn = 5, UpToDate, NotSupported),
    (
        "qe_out_of_date_and_hardening",
        Sgx3,
        |w| {
            old_qe(w);
            newest(w, "SWHardeningNeeded");
        },
        SWHardeningNeeded,
        OutOfDate,
    ),
    (
        "qe_out_of_date_and_configuration",
        Sgx3,
        |w| {
            old_qe(w);
            newest(w, "ConfigurationNeeded");
        },
        ConfigurationNeeded,
        OutOfDateConfigurationNeeded,
    ),
    (
        "qe_out_of_date_and_both",
        Tdx4,
        |w| {
            old_qe(w);
            newest(w, "ConfigurationAndSWHardeningNeeded");
        },
        ConfigurationAndSWHardeningNeeded,
        OutOfDateConfigurationNeeded,
    ),
    ("qe_revoked", Tdx4, |w| w.qe_identity.content["tcbLevels"][0]["tcbStatus"] = "Revoked".into(), UpToDate, Revoked),
];

/// A trial of its own.
type Run = fn() -> Result<(), Failed>;
/// Takes a part of the collateral away.
type Take = fn(&mut Made);

pub fn trials() -> impl Iterator<Item = Trial> {
    let others: [(&str, Run); 7] = [
        ("relaunch_is_advised", relaunch_is_advised),
        ("freshness", freshness),
        ("missing_collateral", missing_collateral),
        ("debug_is_a_flag", debug_is_a_flag),
        ("migration_is_a_flag", migration_is_a_flag),
        ("other_bodies", other_bodies),
        ("chain_beside_the_quote", chain_beside_the_quote),
    ];
    let rated = CASES.iter().map(|case| Trial::test(format!("rated::{}", case.0), move || rates(case)));
    rated.chain(others.map(|(name, run)| Trial::test(format!("rated::{name}"), run)))
}

fn rates(case: &Case) -> Result<(), Failed> {
    let (_, base, change, platform, combined) = case;
    let mut world = base.world();
    change(&mut world);
    let verdict = judge(&world.make(), NOW, &Options::default());
    ensure("authentic", &verdict, verdict.verdict == Decision::Valid)?;
    let tcb = verdict.facts.tcb.as_ref().unwrap();
    ensure(&format!("rated {tcb:?}"), &verdict, tcb.platform == *platform && tcb.combined == *combined)?;
    let flagged = verdict.flags.iter().any(|flag| flag == "tcb-not-supported");
    ensure("the flag", &verdict, flagged == (*platform == NotSupported))
}

fn relaunch_is_advised() -> Result<(), Failed> {
    let judged = |launch: u8, now: Option<u8>| {
        let mut world = if now.is_some() { World::tdx5(4) } else { World::tdx4(4) };
        world.td().tee_tcb_svn[0] = launch;
        if let (Some(now), Some(svn)) = (now, &mut world.td().tee_tcb_svn2) {
            svn[0] = now;
        }
        judge(&world.make(), NOW, &Options::default())
    };
    for (launch, now, advised) in
        [(3, Some(4), true), (3, Some(3), false), (4, Some(4), false), (3, None, false), (4, Some(3), false)]
    {
        let verdict = judged(launch, now);
        let tcb = verdict.facts.tcb.as_ref().unwrap();
        ensure(&format!("launch {launch}, now {now:?}"), &verdict, tcb.relaunch_advised == advised)?;
    }
    Ok(())
}

fn freshness() -> Result<(), Failed> {
    let mut world = World::tdx4(4);
    world.tcb_info.content["nextUpdate"] = rfc3339(NOW - 100).into();
    let made = world.make();
    let judged = |grace, accept| judge(&made, NOW, &Options { grace, accept, ..Options::default() });
    for (grace, accept, valid, rung) in [
        (0, Freshness::Fresh, false, Freshness::Stale),
        (100, Freshness::Fresh, false, Freshness::InGrace),
        (100, Freshness::InGrace, true, Freshness::InGrace),
        (99, Freshness::InGrace, false, Freshness::Stale),
        (99, Freshness::Stale, true, Freshness::Stale),
    ] {
        let verdict = judged(grace, accept);
        ensure(&format!("grace {grace}, {accept:?}"), &verdict, verdict.is_valid() == valid)?;
        ensure("its rung", &verdict, verdict.facts.freshness == Some(rung))?;
        if !valid {
            ensure("its reason", &verdict, verdict.first_failure == Some("tcb-info-time"))?;
        }
    }
    Ok(())
}

fn missing_collateral() -> Result<(), Failed> {
    let made = World::tdx4(4).make();
    let takes: [(&str, Take); 4] = [
        ("pck-crl-signature", |made| made.collateral.pck_crl.clear()),
        ("root-crl-signature", |made| made.collateral.root_crl.clear()),
        ("tcb-info-signature", |made| made.collateral.tcb_info.clear()),
        ("qe-identity-signature", |made| made.collateral.qe_signing_chain.clear()),
    ];
    for (check, take) in takes {
        let mut made = made.clone();
        take(&mut made);
        let verdict = judge(&made, NOW, &Options::default());
        let undecided = verdict.verdict == Decision::Undecided && verdict.first_failure == Some(check);
        ensure(&format!("undecided at {check}"), &verdict, undecided)?;
        let lenient = judge(&made, NOW, &Options { missing: Missing::Allowed, ..Options::default() });
        ensure("valid where that is allowed", &lenient, lenient.is_valid())?;
    }
    Ok(())
}

fn debug_is_a_flag() -> Result<(), Failed> {
    // The first eight bits (TUD) each open the TD in some way: DEBUG is one of them, profiling others.
    for bit in 0..8 {
        let mut world = World::tdx4(4);
        world.td().td_attributes[0] |= 1 << bit;
        let verdict = judge(&world.make(), NOW, &Options::default());
        ensure("a td", &verdict, verdict.is_valid() && verdict.flags == ["test-root", "td-debug"])?;
    }
    let mut world = World::tdx4(4);
    world.td().td_attributes[1] |= 1;
    let verdict = judge(&world.make(), NOW, &Options::default());
    ensure("another attribute", &verdict, verdict.is_valid() && verdict.flags == ["test-root"])?;
    let mut world = World::sgx3(4);
    world.quote.enclave.attributes[0] |= 2;
    let verdict = judge(&world.make(), NOW, &Options::default());
    ensure("an enclave", &verdict, verdict.is_valid() && verdict.flags == ["test-root", "enclave-debug"])
}

fn migration_is_a_flag() -> Result<(), Failed> {
    // SEPT_VE_DISABLE, MIGRATABLE and PKS are neighbours.
    for (bit, flags) in [(4, &["test-root"][..]), (5, &["test-root", "td-migratable"]), (6, &["test-root"])] {
        let mut world = World::tdx4(4);
        world.td().td_attributes[3] |= 1 << bit;
        let verdict = judge(&world.make(), NOW, &Options::default());
        ensure(&format!("bit {bit}"), &verdict, verdict.is_valid() && verdict.flags == flags)?;
    }
    Ok(())
}

/// Bodies that the vectors do not have: an enclave in versions 4 and 5, a TD of TDX 1.0 in version 5.
fn other_bodies() -> Result<(), Failed> {
    for version in [4, 5] {
        let mut world = World::sgx3(4);
        world.quote.version = version;
        let verdict = judge(&world.make(), NOW, &Options::default());
        ensure(&format!("an enclave, version {version}"), &verdict, verdict.is_valid())?;
    }
    let mut world = World::tdx5(4);
    world.quote.td = Some(TdShape::plain());
    let verdict = judge(&world.make(), NOW, &Options::default());
    ensure("a td of body type 2", &verdict, verdict.is_valid())?;
    let mut world = World::tdx5(4);
    world.td().more = vec![7; 237];
    let verdict = judge(&world.make(), NOW, &Options::default());
    ensure("a td of body type 4", &verdict, verdict.is_valid())
}

/// Certification data of type 1 to 3 names the platform, and the chain comes beside the quote.
fn chain_beside_the_quote() -> Result<(), Failed> {
    let mut world = World::sgx3(4);
    world.quote.certification = 3;
    let made = world.make();
    let verdict = judge(&made, NOW, &Options::default());
    ensure("with it", &verdict, verdict.is_valid())?;
    let verifier = belljar_evidence::dcap::Verifier::new(&made.collateral, made.anchors());
    let verdict = verifier.verify(&made.quote, None, NOW, &Options::default());
    let undecided = verdict.verdict == Decision::Undecided && verdict.first_failure == Some("qe-report-signature");
    ensure("without it", &verdict, undecided)
}
