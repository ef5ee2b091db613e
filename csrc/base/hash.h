// How bytes are fingerprinted: SHA-256 (FIPS 180-4), so that any language's standard library can check an artifact.
// Own code because the core links no cryptographic library and a plain Debian has no headers of one; the loop runs at
// about 0.3 GB/s, which is 50 ms for the largest artifact allowed.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>

namespace bg {

using Sha256 = std::array<uint8_t, 32>;

Sha256 sha256(std::span<const uint8_t> bytes);
/// HMAC-SHA256 (RFC 2104).
Sha256 hmac_sha256(std::span<const uint8_t> key, std::span<const uint8_t> message);
/// Takes the same time wherever the first difference is.
bool equal_in_constant_time(const Sha256& a, const Sha256& b);
/// 64 lower-case hexadecimal digits, as sha256sum and hashlib's hexdigest() print them.
std::string hex(const Sha256& digest);

}  // namespace bg
