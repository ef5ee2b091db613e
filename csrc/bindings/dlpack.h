// The structs by which Python libraries hand arrays to each other: DLPack's C ABI, as its specification lays it out
// (https://dmlc.github.io/dlpack/latest/c_api.html, versions 0 and 1). Names are ours; order, width and values are not.
#pragma once

#include <cstddef>
#include <cstdint>

namespace bg::dlpack {

constexpr uint32_t kMajor = 1, kMinor = 0;  // what we write, and the major version we read

enum DeviceType : int32_t { kCpu = 1, kCuda = 2, kCudaHost = 3, kCudaManaged = 13 };
enum TypeCode : uint8_t { kInt = 0, kUInt = 1, kFloat = 2, kBfloat = 4, kBool = 6 };
constexpr uint64_t kReadOnly = 1, kIsCopied = 2;  // flags

struct DLDevice {
  int32_t type;
  int32_t index;
};

struct DLType {
  uint8_t code;
  uint8_t bits;
  uint16_t lanes;
};

struct DLArray {
  void* data;
  DLDevice device;
  int32_t ndim;
  DLType dtype;
  int64_t* shape;
  int64_t* strides;  // elements; null: C order
  uint64_t byte_offset;
};

/// Version 0: capsules "dltensor", "used_dltensor" once somebody has taken it over.
struct Managed {
  DLArray array;
  void* context;
  void (*deleter)(Managed*);

  static constexpr const char *kName = "dltensor", *kUsedName = "used_dltensor";
};

/// Version 1: capsules "dltensor_versioned", "used_dltensor_versioned".
struct ManagedVersioned {
  uint32_t major, minor;
  void* context;
  void (*deleter)(ManagedVersioned*);
  uint64_t flags;
  DLArray array;

  static constexpr const char *kName = "dltensor_versioned", *kUsedName = "used_dltensor_versioned";
};

static_assert(sizeof(DLArray) == 48 && sizeof(Managed) == 64 && sizeof(ManagedVersioned) == 80,
              "the ABI of 64-bit machines");
static_assert(offsetof(DLArray, ndim) == 16 && offsetof(DLArray, shape) == 24 &&
              offsetof(ManagedVersioned, flags) == 24 && offsetof(ManagedVersioned, array) == 32);

}  // namespace bg::dlpack
