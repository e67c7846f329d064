//! `exp`, `ln` and a random number generator that give the same bits on every machine.
//!
//! The C library picks another `exp` on CPUs with fused multiply-add, and that one rounds differently now and then.
//! A model trained with it would differ from machine to machine, so these are made of `+ - * /` alone.

/// e to the power of `x`; exact enough (relative error below 1e-14), 0 or infinity out of range.
#[must_use]
pub fn exp(x: f64) -> f64 {
    if x < -700.0 {
        return 0.0;
    }
    if x > 700.0 {
        return f64::INFINITY;
    }
    let k = (x / std::f64::consts::LN_2).round();
    let r = x - k * std::f64::consts::LN_2;
    let mut term = 1.0;
    let mut sum = 1.0;
    for n in 1..=16 {
        term *= r / f64::from(n);
        sum += term;
    }
    let mut scale = 1.0;
    let factor = if k < 0.0 { 0.5 } else { 2.0 };
    for _ in 0..to_i32(k.abs()) {
        scale *= factor;
    }
    sum * scale
}

/// Natural logarithm of `x`; minus infinity for zero and less.
#[must_use]
pub fn ln(x: f64) -> f64 {
    if x <= 0.0 {
        return f64::NEG_INFINITY;
    }
    let (mut m, mut k) = (x, 0.0);
    while m > std::f64::consts::SQRT_2 {
        m *= 0.5;
        k += 1.0;
    }
    while m < std::f64::consts::FRAC_1_SQRT_2 {
        m *= 2.0;
        k -= 1.0;
    }
    // ln m = 2 artanh((m - 1) / (m + 1)), and |z| <= 0.172 here.
    let z = (m - 1.0) / (m + 1.0);
    let (mut power, mut sum) = (z, 0.0);
    for n in 0..12 {
        sum += power / f64::from(2 * n + 1);
        power *= z * z;
    }
    2.0 * sum + k * std::f64::consts::LN_2
}

/// The logistic function.
#[must_use]
pub fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + exp(-x))
}

/// `x` without its fraction, at the nearest end of the range when it is out of range, 0 for NaN.
#[must_use]
#[expect(clippy::cast_possible_truncation, reason = "the one place where a float becomes an integer; `as` saturates")]
pub fn to_i32(x: f64) -> i32 {
    x as i32
}

/// xoshiro256** (Blackman and Vigna, 2018), seeded by SplitMix64. Not for keys.
#[derive(Debug, Clone)]
pub struct Rng([u64; 4]);

impl Rng {
    /// A generator whose whole sequence follows from `seed`.
    #[must_use]
    pub fn new(mut seed: u64) -> Self {
        let mut split_mix = || {
            seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let z = (seed ^ (seed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^ (z >> 31)
        };
        Self([split_mix(), split_mix(), split_mix(), split_mix()])
    }

    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        let [a, b, c, d] = self.0;
        let (c2, d2) = (c ^ a, d ^ b);
        self.0 = [a ^ d2, b ^ c2, c2 ^ (b << 17), d2.rotate_left(45)];
        b.wrapping_mul(5).rotate_left(7).wrapping_mul(9)
    }

    /// Uniform in [0, 1).
    pub fn uniform(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Uniform integer in `low..=high`, for small ranges (its bias is below 2⁻²⁰).
    pub fn between(&mut self, low: i32, high: i32) -> i32 {
        let width = f64::from(high.saturating_sub(low).saturating_add(1));
        low.saturating_add(to_i32(self.uniform() * width)).min(high)
    }

    /// True with probability `p`.
    pub fn chance(&mut self, p: f64) -> bool {
        self.uniform() < p
    }

    /// Normal with mean 0 and variance 1, as the sum of twelve uniforms: no tails beyond 6.
    pub fn normal(&mut self) -> f64 {
        (0..12).map(|_| self.uniform()).sum::<f64>() - 6.0
    }

    /// An index into `weights`, drawn in proportion to them.
    pub fn weighted(&mut self, weights: &[f64]) -> usize {
        let mut left = self.uniform() * weights.iter().sum::<f64>();
        weights
            .iter()
            .position(|w| {
                left -= w;
                left < 0.0
            })
            .unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agrees_with_the_c_library() {
        for i in -4000..4000 {
            let x = f64::from(i) / 100.0;
            assert!((exp(x) / x.exp() - 1.0).abs() < 1e-13, "exp {x}");
            let y = x.exp();
            assert!((ln(y) - y.ln()).abs() < 1e-13 * (1.0 + x.abs()), "ln {y}");
        }
        assert_eq!(exp(-1e9), 0.0);
        assert_eq!(exp(1e9), f64::INFINITY);
        assert_eq!(ln(0.0), f64::NEG_INFINITY);
    }

    #[test]
    fn a_seed_gives_one_sequence() {
        let draw = |seed| {
            let mut rng = Rng::new(seed);
            (0..100).map(|_| rng.next_u64()).collect::<Vec<_>>()
        };
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
    }

    #[test]
    fn moments() {
        let mut rng = Rng::new(7);
        let draws: Vec<f64> = (0..50_000).map(|_| rng.normal()).collect();
        let mean = draws.iter().sum::<f64>() / 50_000.0;
        let variance = draws.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / 50_000.0;
        assert!(mean.abs() < 0.02 && (variance - 1.0).abs() < 0.03, "{mean} {variance}");
        assert!((0..10_000).all(|_| (3..=5).contains(&rng.between(3, 5))));
    }
}
