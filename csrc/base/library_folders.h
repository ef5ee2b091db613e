// Where libraries that are opened at run time are looked for, besides the places the dynamic linker knows.
#pragma once

#include <mutex>
#include <string>
#include <utility>
#include <vector>

namespace bg {

/// Folders in the order in which they were added. Safe from several threads.
class LibraryFolders {
 public:
  void add(std::string folder) {
    std::lock_guard lock(mutex_);
    names_.push_back(std::move(folder));
  }
  std::vector<std::string> all() const {
    std::lock_guard lock(mutex_);
    return names_;
  }

 private:
  mutable std::mutex mutex_;
  std::vector<std::string> names_;
};

}  // namespace bg
