//! Doubles between the encodings: the nearest one, the digits that stand for it, and no digits that take much longer
//! than others, because a peer chooses them.

mod seeded;

use std::hint::black_box;
use std::time::{Duration, Instant};

use corecast_protocol::envelope::{Format, transcode, transcoded_len, transcoded_len_max};
use proptest::prelude::*;
use seeded::seeded;

/// Decimals so close to the middle between two doubles that 19 digits do not tell which is nearer.
const HARD: [&str; 8] = [
    "6.1228348733999107369e-296",
    "3.2956212316547954779e-298",
    "7.8486620042131819809e-285",
    "6.8643367545048679041e-285",
    "1.8447362809681141174e-294",
    "9.0398533830187168439e-300",
    "4.8949036111454810063e-288",
    "7.2624958009159922396e-300",
];

/// Doubles whose shortest digits the standard library finds last.
const SLOW: [u64; 8] = [
    0x007c_830f_925b_eeae,
    0x00d8_9336_730e_73bf,
    0x00d9_afa2_9af7_31da,
    0x008f_d3a8_8296_f4d7,
    0x008e_fdbf_1e6f_9d86,
    0x0058_9e50_6519_98bc,
    0x00a2_407e_ad83_df1a,
    0x0058_f671_999c_e3a0,
];

fn to_msgpack(json: &str) -> Vec<u8> {
    let mut out = Vec::new();
    transcode(Format::Json, json.as_bytes(), &mut out);
    assert_eq!(transcoded_len(Format::Json, json.as_bytes()), out.len(), "{json}");
    assert!(transcoded_len_max(Format::Json, json.len() as u64) >= out.len() as u64, "{json}");
    out
}

fn packed(number: f64) -> Vec<u8> {
    [&[0xcb], &number.to_be_bytes()[..]].concat()
}

fn to_json(number: f64) -> String {
    let (packed, mut out) = (packed(number), Vec::new());
    transcode(Format::MessagePack, &packed, &mut out);
    assert_eq!(transcoded_len(Format::MessagePack, &packed), out.len(), "{number:?}");
    String::from_utf8(out).expect("JSON is UTF-8")
}

/// As the standard library reads it, which is slow for some and right for all.
fn check_nearest(decimal: &str) {
    let expected = packed(decimal.parse().expect("a number"));
    assert_eq!(to_msgpack(decimal), expected, "{decimal}");
}

#[test]
fn hard_decimals_become_the_nearest_double() {
    for decimal in HARD {
        check_nearest(decimal);
        check_nearest(&format!("-{decimal}"));
    }
    for bits in SLOW {
        let number = f64::from_bits(bits);
        assert_eq!(to_json(number).parse(), Ok(number));
    }
    for decimal in [
        "-0",
        "-0.0",
        "1e400",
        "-1e400",
        "1e-400",
        "0e99999999999999999999",
        "1e99999999999999999999",
        "1E5",
        "1e+5",
        "18446744073709551616",
        "-9223372036854775809",
        "2.2250738585072011e-308",
        "9007199254740993.0",
        "179769313486231580793728971405303415079934132710037826936173778980444968292764750946649017977587207096330286416\
         692887910946555547851940402630657488671505820681908902000708383676273854845817711531764475730270069855571366959\
         622842914819860834936475292719074168444365510704342711559699508093042880",
    ] {
        check_nearest(decimal);
    }
    // The middle between two doubles, decided by its 700th digit.
    check_nearest(&format!("9007199254740993.{}1", "0".repeat(700)));
    check_nearest(&format!("9007199254740993.{}", "0".repeat(700)));
}

proptest! {
    #![proptest_config(seeded(3000))]

    #[test]
    fn any_decimal_becomes_the_nearest_double(
        whole in "0|[1-9][0-9]{0,24}", fraction in "[0-9]{1,40}", exponent in -400i32..400, is_negative in any::<bool>(),
    ) {
        let sign = if is_negative { "-" } else { "" };
        check_nearest(&format!("{sign}{whole}.{fraction}e{exponent}"));
        check_nearest(&format!("{sign}{whole}.{fraction}"));
        check_nearest(&format!("{sign}{whole}e{exponent}"));
    }

    #[test]
    fn any_double_comes_back_and_stays_one(bits in any::<u64>()) {
        let number = f64::from_bits(bits);
        prop_assume!(number.is_finite());
        let json = to_json(number);
        prop_assert!(json.contains(['.', 'e']), "a float in JSON too: {}", json);
        prop_assert_eq!(to_msgpack(&json), packed(number));
        // Digits around the middle to the next double.
        check_nearest(&format!("{number:.25e}"));
    }
}

/// The least time of several.
fn least(mut work: impl FnMut()) -> Duration {
    let mut once = || {
        let start = Instant::now();
        work();
        start.elapsed()
    };
    (0..7).map(|_| once()).min().expect("there were some")
}

/// Ratios of least times: hard ones took the standard library 180 times as long as others, and slow ones 40 times.
#[test]
fn chosen_numbers_take_no_much_longer_than_others() {
    let list = |items: &[String]| format!("[{}]", [items; 100].concat().join(","));
    let hard = HARD.map(str::to_owned);
    let easy = HARD.map(|it| format!("{}e290", &it[..it.len() - 5]));
    let (hard, easy) = (list(&hard), list(&easy));
    let mut out = Vec::new();
    let mut read = |json: &str| {
        least(|| {
            out.clear();
            transcode(Format::Json, black_box(json.as_bytes()), &mut out);
        })
    };
    let (hard, easy) = (read(&hard), read(&easy));
    assert!(hard < 40 * easy, "{hard:?} against {easy:?}");
    let list = |numbers: [f64; 8]| {
        let items = numbers.map(packed).concat().repeat(100);
        [&[0xdc, 0x03, 0x20], items.as_slice()].concat()
    };
    let slow = list(SLOW.map(f64::from_bits));
    let quick = list([0.1, 1.5, 2.25, 1e9, 3.75, 0.5, 100.5, -7.125]);
    let mut write = |packed: &[u8]| {
        least(|| {
            out.clear();
            transcode(Format::MessagePack, black_box(packed), &mut out);
        })
    };
    let (slow, quick) = (write(&slow), write(&quick));
    assert!(slow < 12 * quick, "{slow:?} against {quick:?}");
}
