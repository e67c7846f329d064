//! Just enough arithmetic on numbers of 3072 bits to check what EINIT checks: products and comparisons.

/// Limbs of a number of 3072 bits.
pub(super) const LIMBS: usize = 96;

/// A number, least significant limb first.
pub(super) type Wide = Vec<u32>;

/// The number that the bytes are, least significant first.
pub(super) fn from_le(bytes: &[u8]) -> Wide {
    bytes.as_chunks::<4>().0.iter().map(|limb| u32::from_le_bytes(*limb)).collect()
}

/// The product.
pub(super) fn product(a: &[u32], b: &[u32]) -> Wide {
    let mut result = vec![0_u32; a.len().saturating_add(b.len())];
    for (at, x) in a.iter().enumerate() {
        let mut carry = 0_u64;
        let row = result.iter_mut().skip(at);
        for (limb, y) in row.zip(b.iter().chain(std::iter::repeat(&0))) {
            // (2^32 - 1)^2 + 2 (2^32 - 1) is the largest value: it fits.
            let sum = u64::from(*x) * u64::from(*y) + u64::from(*limb) + carry;
            *limb = low(sum);
            carry = sum >> 32;
        }
    }
    result
}

/// The difference; `None` when it would be negative. Both have the same number of limbs.
pub(super) fn difference(a: &[u32], b: &[u32]) -> Option<Wide> {
    let mut borrow = false;
    let mut result = Vec::with_capacity(a.len());
    for (x, y) in a.iter().zip(b) {
        let (first, under) = x.overflowing_sub(*y);
        let (second, again) = first.overflowing_sub(u32::from(borrow));
        borrow = under || again;
        result.push(second);
    }
    (a.len() == b.len() && !borrow).then_some(result)
}

/// Whether the first number is smaller; leading zeros do not count.
pub(super) fn is_less(a: &[u32], b: &[u32]) -> bool {
    let length = a.len().max(b.len());
    let limb = |number: &[u32], at: usize| number.get(at).copied().unwrap_or(0);
    (0..length).rev().map(|at| (limb(a, at), limb(b, at))).find(|(x, y)| x != y).is_some_and(|(x, y)| x < y)
}

fn low(sum: u64) -> u32 {
    let [a, b, c, d, ..] = sum.to_le_bytes();
    u32::from_le_bytes([a, b, c, d])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_differences_and_order() {
        assert_eq!(product(&[u32::MAX, u32::MAX], &[u32::MAX]), [1, u32::MAX, u32::MAX - 1]);
        assert_eq!(product(&[3], &[5]), [15, 0]);
        assert_eq!(difference(&[0, 1], &[1, 0]), Some(vec![u32::MAX, 0]));
        assert_eq!(difference(&[0, 1], &[1, 1]), None);
        assert!(is_less(&[7, 0], &[8]) && !is_less(&[8], &[8, 0]) && is_less(&[9], &[0, 1]));
    }
}
