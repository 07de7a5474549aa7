//! Pictures small enough to make by hand, and forms that carry them.

use std::collections::BTreeMap;

/// A PNG of one colour, uncompressed.
pub fn png(width: u32, height: u32, colour: [u8; 3]) -> Vec<u8> {
    encoded(width, height, &colour)
}

/// The same with an alpha channel.
pub fn png_with_alpha(width: u32, height: u32, colour: [u8; 3], alpha: u8) -> Vec<u8> {
    let [red, green, blue] = colour;
    encoded(width, height, &[red, green, blue, alpha])
}

fn encoded(width: u32, height: u32, pixel: &[u8]) -> Vec<u8> {
    let mut rows = Vec::new();
    for _ in 0..height {
        rows.push(0);
        rows.extend(pixel.repeat(width as usize));
    }
    let kind = if pixel.len() == 4 { 6 } else { 2 };
    let header = [width.to_be_bytes().as_slice(), &height.to_be_bytes(), &[8, kind, 0, 0, 0]].concat();
    let file = [chunk(b"IHDR", &header), chunk(b"IDAT", &stored(&rows)), chunk(b"IEND", b"")].concat();
    [b"\x89PNG\r\n\x1a\n".as_slice(), &file].concat()
}

fn chunk(kind: &[u8; 4], data: &[u8]) -> Vec<u8> {
    let named = [kind.as_slice(), data].concat();
    let length = u32::try_from(data.len()).unwrap().to_be_bytes();
    [length.as_slice(), &named, &crc(&named).to_be_bytes()].concat()
}

/// A zlib stream of stored blocks (RFC 1950, RFC 1951 §3.2.4).
fn stored(data: &[u8]) -> Vec<u8> {
    let mut out = vec![0x78, 0x01];
    let blocks: Vec<&[u8]> = data.chunks(65_535).collect();
    for (number, block) in blocks.iter().enumerate() {
        let length = u16::try_from(block.len()).unwrap();
        out.push(u8::from(number + 1 == blocks.len()));
        out.extend(length.to_le_bytes());
        out.extend((!length).to_le_bytes());
        out.extend_from_slice(block);
    }
    let (a, b) = data.iter().fold((1_u32, 0_u32), |(a, b), byte| {
        let a = (a + u32::from(*byte)) % 65_521;
        (a, (b + a) % 65_521)
    });
    out.extend(((b << 16) | a).to_be_bytes());
    out
}

/// CRC-32 as PNG wants it.
fn crc(data: &[u8]) -> u32 {
    !data.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| if crc & 1 == 1 { (crc >> 1) ^ 0xedb8_8320 } else { crc >> 1 })
    })
}

/// Width and height of a PNG.
pub fn size(png: &[u8]) -> (u32, u32) {
    let number = |at: usize| u32::from_be_bytes(png[at..at + 4].try_into().unwrap());
    (number(16), number(20))
}

/// The picture data of a PNG, without its header and texts: equal for equal pictures of one encoder.
pub fn pixels(png: &[u8]) -> Vec<u8> {
    let (mut at, mut out) = (8, Vec::new());
    while at + 8 <= png.len() {
        let length = u32::from_be_bytes(png[at..at + 4].try_into().unwrap()) as usize;
        if &png[at + 4..at + 8] == b"IDAT" {
            out.extend_from_slice(&png[at + 8..at + 8 + length]);
        }
        at += 12 + length;
    }
    out
}

/// The texts of a PNG (`tEXt`), by their names, as ComfyUI writes `prompt` and `workflow`.
pub fn texts(png: &[u8]) -> BTreeMap<String, String> {
    let (mut at, mut out) = (8, BTreeMap::new());
    while at + 8 <= png.len() {
        let length = u32::from_be_bytes(png[at..at + 4].try_into().unwrap()) as usize;
        if &png[at + 4..at + 8] == b"tEXt" {
            let data = &png[at + 8..at + 8 + length];
            let end = data.iter().position(|byte| *byte == 0).unwrap();
            let latin_1 = |bytes: &[u8]| bytes.iter().map(|byte| char::from(*byte)).collect::<String>();
            out.insert(latin_1(&data[..end]), latin_1(&data[end + 1..]));
        }
        at += 12 + length;
    }
    out
}

/// The boundary of [`form`].
pub const BOUNDARY: &str = "the-boundary-of-a-test";

/// A form with `fields`, then a file in the field `image`.
pub fn form(fields: &[(&str, &str)], filename: &str, content: &[u8]) -> Vec<u8> {
    let mut out = String::new();
    for (name, value) in fields {
        out.push_str(&format!("--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n"));
    }
    out.push_str(&format!(
        "--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"image\"; filename=\"{filename}\"\r\nContent-Type: image/png\r\n\r\n"
    ));
    [out.as_bytes(), content, format!("\r\n--{BOUNDARY}--\r\n").as_bytes()].concat()
}
