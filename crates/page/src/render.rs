//! From [`Page`] to HTML, one function for each section.

use crate::html::Html;
use crate::page::{Certificate, Contract, Fact, Input, Measured, Outcome, Page, Phase, SOFTWARE_WARNING, Verdict};

/// Everything from the beginning to the style: the policy allows this one style by its digest, and nothing else.
const HEAD: &str = concat!(
    "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n",
    "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'sha256-",
    "3a2tKHgGC0jkyJDzyjMq2ig34GIZAWf1MnIvrQjC3QQ=",
    "'; base-uri 'none'; form-action 'none'\">\n",
    "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n",
    "<meta name=\"referrer\" content=\"no-referrer\">\n<style>",
    include_str!("style.css"),
    "</style>\n<title>"
);

/// The whole document.
#[must_use]
pub fn render(page: &Page) -> String {
    let mut html = Html::default();
    html.markup(HEAD).text(verdict_word(page)).markup(": ").text(&page.subject);
    html.markup(" · Belljar attestation</title>\n</head>\n<body>\n<main>\n");
    head(&mut html, page);
    measured(&mut html, &page.measured);
    inputs(&mut html, &page.inputs);
    checks(&mut html, page);
    decisions(&mut html, page);
    chain(&mut html, &page.chain);
    contract(&mut html, &page.contract);
    attacks(&mut html, page);
    phases(&mut html, &page.phases);
    html.markup("<section><h2>The run</h2>\n");
    facts(&mut html, &page.facts);
    html.markup("</section>\n<section><h2>Versions</h2>\n");
    facts(&mut html, &page.versions);
    html.markup("</section>\n<footer>Written by Belljar at ").text(&page.written_at);
    html.markup(
        ". This page makes no request and runs no program; it is a record, and proves nothing by itself.</footer>\n",
    );
    html.markup("</main>\n</body>\n</html>\n");
    html.finish()
}

fn verdict_word(page: &Page) -> &'static str {
    match (page.verdict, page.tee.software) {
        (Verdict::Accepted, false) => "Accepted",
        (Verdict::Accepted, true) => "Accepted, without protection",
        (Verdict::Refused, _) => "Refused",
        (Verdict::Undecided, _) => "Undecided",
    }
}

fn head(html: &mut Html, page: &Page) {
    html.markup("<header><p>Belljar · attestation of one run</p></header>\n");
    if page.tee.software {
        html.markup("<div class=\"software\" role=\"alert\"><strong>").text(SOFTWARE_WARNING);
        html.markup(
            "</strong><span>Every step below was carried out and checked as it is on hardware. But the report was signed by a \
             program on this host, with a root made on this host: whoever rules the host can read the pod’s memory, and \
             could have written this report. It shows that the software works, not that anything was confidential.</span></div>\n",
        );
    }
    let class = match (page.verdict, page.tee.software) {
        (Verdict::Accepted, false) => "<h1 class=\"good\">✓ ",
        (Verdict::Refused, _) => "<h1 class=\"bad\">✗ ",
        (Verdict::Accepted, true) => "<h1 class=\"warn\">✓ ",
        (Verdict::Undecided, _) => "<h1 class=\"warn\">? ",
    };
    html.markup(class).text(verdict_word(page)).markup("</h1>\n<p class=\"reason\">").text(&page.reason);
    html.markup("</p>\n<div class=\"tiles\">\n<div class=\"tile wide\"><b>Workload</b><span>").text(&page.subject);
    html.markup("</span></div>\n<div class=\"tile\"><b>Environment</b><span>").text(&page.tee.name).markup("</span>");
    html.markup(if page.tee.software {
        "<small class=\"warn\">software, no protection</small></div>\n"
    } else {
        "</div>\n"
    });

    let marks = |wanted| page.measured.iter().filter(|m| mark(m) == wanted).count();
    let (same, differ) = (marks(Mark::Matches), marks(Mark::Differs) + marks(Mark::NotMeasured));
    tile(html, "<b>Measured as predicted</b>", same, same + differ, differ);
    html.markup("</div>\n");
    let outcomes = |wanted| page.checks.iter().filter(|c| c.outcome == wanted).count();
    let (passed, failed, skipped) =
        (outcomes(Outcome::Passed), outcomes(Outcome::Failed), outcomes(Outcome::NotChecked));
    tile(html, "<b>Checks passed</b>", passed, passed + failed, failed);
    if skipped > 0 {
        html.markup("<small>and ").count(skipped).markup(" not checked</small>");
    }
    html.markup("</div>\n<div class=\"tile\"><b>Resources released</b><span>");
    html.count(page.decisions.iter().filter(|d| d.allowed).count()).markup(" of ").count(page.decisions.len());
    html.markup("</span></div>\n</div>\n");
}

/// A tile without its end.
fn tile(html: &mut Html, name: &'static str, good: usize, all: usize, bad: usize) {
    html.markup("<div class=\"tile\">").markup(name).markup(match (bad, good) {
        (0, 0) => "<span class=\"warn\">",
        (0, _) => "<span class=\"good\">",
        _ => "<span class=\"bad\">",
    });
    html.count(good).markup(" of ").count(all).markup("</span>");
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mark {
    Matches,
    Differs,
    NotPredicted,
    NotMeasured,
}

fn mark(m: &Measured) -> Mark {
    match (&m.predicted, &m.found) {
        (Some(predicted), Some(found)) if predicted == found => Mark::Matches,
        (Some(_), Some(_)) => Mark::Differs,
        (_, None) => Mark::NotMeasured,
        (None, Some(_)) => Mark::NotPredicted,
    }
}

fn measured(html: &mut Html, rows: &[Measured]) {
    html.markup(
        "<section><h2>Predicted and measured</h2>\n<p>Predicted from the files before the start; measured when the VM started.</p>\n\
         <table class=\"measured\"><thead><tr><th class=\"what\">What</th><th class=\"hex\">Predicted</th>\
         <th class=\"hex\">Measured</th><th class=\"end\">Result</th></tr></thead><tbody>\n",
    );
    for row in rows {
        html.markup("<tr><td>").text(&row.what).markup("<small>").text(&row.source).markup("</small></td><td>");
        value(html, row.predicted.as_deref());
        html.markup("</td><td>");
        value(html, row.found.as_deref());
        html.markup(match mark(row) {
            Mark::Matches => "</td><td class=\"mark good\">✓ same</td></tr>\n",
            Mark::Differs => "</td><td class=\"mark bad\">✗ differs</td></tr>\n",
            Mark::NotPredicted => "</td><td class=\"mark warn\">– not predicted</td></tr>\n",
            Mark::NotMeasured => "</td><td class=\"mark warn\">– not measured</td></tr>\n",
        });
    }
    html.markup("</tbody></table></section>\n");
}

fn inputs(html: &mut Html, rows: &[Input]) {
    if rows.is_empty() {
        return;
    }
    html.markup(
        "<section><h2>What the launch measurement is made of</h2>\n<p>The evidence shows one digest over all of these; when \
         it is as predicted, so is each of them.</p>\n<table class=\"policy\"><thead><tr><th class=\"out\">Input</th>\
         <th class=\"res\">From</th><th>SHA-256, or text</th></tr></thead><tbody>\n",
    );
    for row in rows {
        html.markup("<tr><td>").text(&row.what).markup("</td><td>").text(&row.source).markup("</td><td><code>");
        html.text(&row.value).markup("</code></td></tr>\n");
    }
    html.markup("</tbody></table></section>\n");
}

fn value(html: &mut Html, value: Option<&str>) {
    match value {
        Some(value) => html.markup("<code>").text(value).markup("</code>"),
        None => html.markup("<span class=\"soft\">none</span>"),
    };
}

fn checks(html: &mut Html, page: &Page) {
    html.markup(
        "<section><h2>Checks of the evidence</h2>\n<table class=\"checks\"><thead><tr><th class=\"name\">Check</th>\
         <th>Expected</th><th>Found</th><th class=\"out\">Outcome</th></tr></thead><tbody>\n",
    );
    for check in &page.checks {
        html.markup("<tr><td>").text(&check.name).markup("</td><td><code>").text(&check.expected);
        html.markup("</code></td><td><code>").text(&check.found).markup(match check.outcome {
            Outcome::Passed => "</code></td><td class=\"mark good\">✓ passed</td></tr>\n",
            Outcome::Failed => "</code></td><td class=\"mark bad\">✗ failed</td></tr>\n",
            Outcome::NotChecked => "</code></td><td class=\"mark warn\">– not checked</td></tr>\n",
        });
    }
    html.markup("</tbody></table></section>\n");
}

fn decisions(html: &mut Html, page: &Page) {
    html.markup("<section><h2>Decisions of the policy</h2>\n");
    if page.decisions.is_empty() {
        html.markup("<p>No resource was asked for.</p></section>\n");
        return;
    }
    html.markup(
        "<p>Whatever no rule allows is denied.</p>\n<table class=\"policy\"><thead><tr><th class=\"res\">Resource</th>\
         <th class=\"rule\">Rule</th><th>Why</th><th class=\"out\">Decision</th></tr></thead><tbody>\n",
    );
    for decision in &page.decisions {
        html.markup("<tr><td><code>").text(&decision.resource).markup("</code></td><td>").text(&decision.rule);
        html.markup("</td><td>").text(&decision.reason).markup(if decision.allowed {
            "</td><td class=\"mark good\">✓ allowed</td></tr>\n"
        } else {
            "</td><td class=\"mark bad\">✗ denied</td></tr>\n"
        });
    }
    html.markup("</tbody></table></section>\n");
}

fn chain(html: &mut Html, chain: &[Certificate]) {
    html.markup("<section><h2>Who signed the evidence</h2>\n<p>From the root to the key that signed the report.</p>\n");
    for certificate in chain {
        html.markup("<div class=\"cert\"><h3>").text(&certificate.role).markup(" · ").text(&certificate.trust);
        html.markup("</h3><dl><dt>Subject</dt><dd>").text(&certificate.subject);
        html.markup("</dd><dt>Issuer</dt><dd>").text(&certificate.issuer);
        html.markup("</dd><dt>Valid</dt><dd>")
            .text(&certificate.not_before)
            .markup(" to ")
            .text(&certificate.not_after);
        html.markup("</dd><dt>Key</dt><dd>").text(&certificate.key);
        html.markup("</dd><dt>SHA-256</dt><dd><code>")
            .text(&certificate.fingerprint)
            .markup("</code></dd></dl></div>\n");
    }
    html.markup("</section>\n");
}

fn contract(html: &mut Html, contract: &Contract) {
    html.markup(
        "<section><h2>The contract</h2>\n<p>The guest runs this and nothing else; the host can only name a container in it.</p>\n\
         <ul class=\"words\">\n",
    );
    for sentence in &contract.words {
        html.markup("<li>").text(sentence).markup("</li>\n");
    }
    html.markup("</ul>\n<p>As it is written; digest of the initdata that carries it: <code>").text(&contract.digest);
    html.markup("</code></p>\n<pre>").block(&contract.toml).markup("</pre></section>\n");
}

fn attacks(html: &mut Html, page: &Page) {
    if page.attacks.is_empty() {
        return;
    }
    html.markup(
        "<section><h2>Attacks by the host</h2>\n<p>Each was tried against this workload. The twin is the same run without the \
         change: it has to be accepted, or the refusal would prove nothing.</p>\n<table class=\"policy\"><thead><tr>\
         <th class=\"res\">Changed</th><th>Reason given</th><th class=\"out\">Attack</th><th class=\"out\">Twin</th></tr></thead><tbody>\n",
    );
    for attack in &page.attacks {
        html.markup("<tr><td>").text(&attack.name).markup("</td><td>").text(&attack.reason);
        html.markup(if attack.refused {
            "</td><td class=\"mark good\">✓ refused</td>"
        } else {
            "</td><td class=\"mark bad\">✗ not refused</td>"
        });
        html.markup(if attack.twin_accepted {
            "<td class=\"mark good\">✓ accepted</td></tr>\n"
        } else {
            "<td class=\"mark bad\">✗ not accepted</td></tr>\n"
        });
    }
    html.markup("</tbody></table></section>\n");
}

fn phases(html: &mut Html, phases: &[Phase]) {
    html.markup("<section><h2>Where the time went</h2>\n");
    let finite = |x: f64| if x.is_finite() { x.max(0.0) } else { 0.0 };
    let end = phases.iter().map(|p| finite(p.start_ms) + finite(p.duration_ms)).fold(0.0, f64::max);
    html.markup("<p>From the command to its end: ")
        .number(end, 0)
        .markup(" ms.</p>\n<table class=\"phases\"><tbody>\n");
    // Room for a sliver of every phase, and no division by zero.
    let scale = 1000.0 / end.max(1.0);
    for phase in phases {
        let width = (finite(phase.duration_ms) * scale).max(2.0);
        let start = (finite(phase.start_ms) * scale).min(1000.0 - width);
        html.markup("<tr><td class=\"name\">").text(&phase.name);
        html.markup(
            "</td><td><svg viewBox=\"0 0 1000 10\" preserveAspectRatio=\"none\" aria-hidden=\"true\">\
             <rect class=\"track\" width=\"1000\" height=\"10\"/><rect class=\"bar\" height=\"10\" x=\"",
        );
        html.number(start, 1).markup("\" width=\"").number(width, 1).markup("\"/></svg></td><td class=\"ms\">");
        html.number(finite(phase.duration_ms), 0).markup(" ms</td></tr>\n");
    }
    html.markup("</tbody></table></section>\n");
}

fn facts(html: &mut Html, facts: &[Fact]) {
    html.markup("<dl>\n");
    for fact in facts {
        html.markup("<dt>").text(&fact.name).markup("</dt><dd>").text(&fact.value).markup("</dd>\n");
    }
    html.markup("</dl>\n");
}
