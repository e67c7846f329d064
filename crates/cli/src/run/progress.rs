//! Progress of a pull: bars when stderr is a terminal, silence otherwise.

use std::sync::Mutex;

use belljar_image::Progress;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use crate::output::draws_progress;

/// One bar for each layer.
#[derive(Debug, Default)]
pub struct Bars {
    all: MultiProgress,
    bars: Mutex<Vec<ProgressBar>>,
}

impl Bars {
    fn with(&self, index: usize, act: impl FnOnce(&ProgressBar)) {
        if let Ok(bars) = self.bars.lock()
            && let Some(bar) = bars.get(index)
        {
            act(bar);
        }
    }
}

impl Progress for Bars {
    fn layers(&self, layers: &[(String, u64)]) {
        if !draws_progress() {
            return;
        }
        let style = ProgressStyle::with_template("{prefix:19} [{bar:30}] {bytes:>10}/{total_bytes:10} {msg}");
        let Ok(style) = style else { return };
        let bars = layers.iter().map(|(diff_id, size)| {
            let bar = self.all.add(ProgressBar::new(*size).with_style(style.clone()));
            bar.set_prefix(diff_id.chars().take(19).collect::<String>());
            bar
        });
        if let Ok(mut held) = self.bars.lock() {
            *held = bars.collect();
        }
    }

    fn cached(&self, index: usize) {
        self.with(index, |bar| bar.finish_with_message("in the store"));
    }

    fn advance(&self, index: usize, done: u64, total: u64) {
        self.with(index, |bar| {
            bar.set_length(total);
            bar.set_position(done);
        });
    }

    fn finished(&self, index: usize) {
        self.with(index, |bar| bar.finish_with_message("ready"));
    }
}
