/* A library to preload: system calls that change a folder fail, or end the process, from the n-th on.
 *
 * It counts the calls below of this process and its threads that touch something under a folder, in order, and lets one fail:
 *
 *   FAILING_CALLS_UNDER   the folder, as an absolute path without links
 *   FAILING_CALLS_AT      number of the call that fails, from 0; without it none does
 *   FAILING_CALLS_ERRNO   what it answers (number); 0: the process kills itself with SIGKILL before the call
 *   FAILING_CALLS_EVER    when set, every later call fails too
 *   FAILING_CALLS_COUNT   a file outside the folder: the names of the calls, one a line, appended as they come
 *
 * A program that loads it may call failing_calls_set() instead, which begins counting anew.
 *
 * Covered: write pwrite fsync fdatasync ftruncate rename renameat renameat2 link unlink unlinkat rmdir mkdir mkdirat, and open, openat,
 * creat, mkostemp where they make or change something or open a folder. Not covered: writes through a map, io_uring, calls
 * that libc makes inside itself (fflush of a FILE). Python and the core use none of these.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static char under[PATH_MAX];
static size_t under_length;
static long at = -1, calls = 0;
static int answer = 0, ever = 0, count_file = -1;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;

#define REAL(result, name, ...)                                       \
  static result (*real)(__VA_ARGS__);                                 \
  if (!real) real = (result(*)(__VA_ARGS__))dlsym(RTLD_NEXT, #name)

__attribute__((constructor)) static void begin(void) {
  const char* value = getenv("FAILING_CALLS_UNDER");
  if (value && strlen(value) < sizeof under) strcpy(under, value);
  under_length = strlen(under);
  if ((value = getenv("FAILING_CALLS_AT"))) at = atol(value);
  if ((value = getenv("FAILING_CALLS_ERRNO"))) answer = atoi(value);
  ever = getenv("FAILING_CALLS_EVER") != NULL;
  if ((value = getenv("FAILING_CALLS_COUNT")))
    count_file = (int)syscall(SYS_openat, AT_FDCWD, value, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
}

void failing_calls_set(const char* folder, long number, int error_number, int and_ever) {
  pthread_mutex_lock(&mutex);
  snprintf(under, sizeof under, "%s", folder);
  under_length = strlen(under);
  calls = 0, at = number, answer = error_number, ever = and_ever;
  pthread_mutex_unlock(&mutex);
}

/* Name of the call that failed, or of the last one when none did. */
static const char* last_name = "";
const char* failing_calls_name(void) { return last_name; }
long failing_calls_count(void) { return calls; }

static int is_under(const char* path) {
  return under_length && strncmp(path, under, under_length) == 0 &&
         (path[under_length] == 0 || path[under_length] == '/');
}

static int path_is_under(int folder, const char* path) {
  char whole[2 * PATH_MAX], link[64];
  if (!under_length || !path) return 0;
  if (path[0] == '/') return is_under(path);
  ssize_t length;
  if (folder == AT_FDCWD) {
    if (!getcwd(whole, PATH_MAX)) return 0;
    length = (ssize_t)strlen(whole);
  } else {
    snprintf(link, sizeof link, "/proc/self/fd/%d", folder);
    length = readlink(link, whole, PATH_MAX - 1);
    if (length < 0) return 0;
  }
  snprintf(whole + length, sizeof whole - (size_t)length, "/%s", path);
  return is_under(whole);
}

static int file_is_under(int file) {
  char link[64], path[PATH_MAX];
  if (!under_length) return 0;
  snprintf(link, sizeof link, "/proc/self/fd/%d", file);
  ssize_t length = readlink(link, path, sizeof path - 1);
  if (length < 0) return 0;
  path[length] = 0;
  return is_under(path);
}

/* Counts a call; whether it must fail, with errno set. */
static int fails(const char* name) {
  pthread_mutex_lock(&mutex);
  long number = calls++;
  if (at < 0 || number <= at) last_name = name;
  if (count_file >= 0) dprintf(count_file, "%s\n", name);
  pthread_mutex_unlock(&mutex);
  if (at < 0 || number < at || (number > at && !ever)) return 0;
  if (answer == 0) {
    syscall(SYS_kill, getpid(), SIGKILL);
    for (;;) pause();
  }
  errno = answer;
  return 1;
}

#define FILE_CALL(result, name, parameters, arguments, types...) \
  result name parameters {                                       \
    REAL(result, name, types);                                   \
    if (file_is_under(file) && fails(#name)) return -1;          \
    return real arguments;                                       \
  }
FILE_CALL(ssize_t, pwrite, (int file, const void* data, size_t size, off_t offset), (file, data, size, offset), int,
          const void*, size_t, off_t)
FILE_CALL(ssize_t, pwrite64, (int file, const void* data, size_t size, off64_t offset), (file, data, size, offset), int,
          const void*, size_t, off64_t)
FILE_CALL(int, fsync, (int file), (file), int)
FILE_CALL(int, fdatasync, (int file), (file), int)
FILE_CALL(int, ftruncate, (int file, off_t size), (file, size), int, off_t)
FILE_CALL(int, ftruncate64, (int file, off64_t size), (file, size), int, off64_t)

/* A write that fails for want of room has often written a part: half of what is asked for goes through first. */
ssize_t write(int file, const void* data, size_t size) {
  REAL(ssize_t, write, int, const void*, size_t);
  if (!file_is_under(file) || !fails("write")) return real(file, data, size);
  int number = errno;
  if (number == ENOSPC && size > 1) (void)!real(file, data, size / 2);
  errno = number;
  return -1;
}

#define PATH_CALL(result, name, folder, path, parameters, arguments, types...) \
  result name parameters {                                                     \
    REAL(result, name, types);                                                 \
    if (path_is_under(folder, path) && fails(#name)) return -1;                \
    return real arguments;                                                     \
  }
PATH_CALL(int, rename, AT_FDCWD, to, (const char* from, const char* to), (from, to), const char*, const char*)
PATH_CALL(int, renameat, b, to, (int a, const char* from, int b, const char* to), (a, from, b, to), int, const char*,
          int, const char*)
PATH_CALL(int, renameat2, b, to, (int a, const char* from, int b, const char* to, unsigned flags),
          (a, from, b, to, flags), int, const char*, int, const char*, unsigned)
PATH_CALL(int, link, AT_FDCWD, to, (const char* from, const char* to), (from, to), const char*, const char*)
PATH_CALL(int, unlink, AT_FDCWD, path, (const char* path), (path), const char*)
PATH_CALL(int, unlinkat, folder, path, (int folder, const char* path, int flags), (folder, path, flags), int,
          const char*, int)
PATH_CALL(int, rmdir, AT_FDCWD, path, (const char* path), (path), const char*)
PATH_CALL(int, mkdir, AT_FDCWD, path, (const char* path, mode_t mode), (path, mode), const char*, mode_t)
PATH_CALL(int, mkdirat, folder, path, (int folder, const char* path, mode_t mode), (folder, path, mode), int,
          const char*, mode_t)

static int changes(int flags) {
  return (flags & (O_CREAT | O_TRUNC | O_DIRECTORY)) != 0 || (flags & O_ACCMODE) != O_RDONLY;
}

#define OPEN_CALL(name)                                                             \
  int name(const char* path, int flags, ...) {                                      \
    REAL(int, name, const char*, int, ...);                                         \
    va_list more;                                                                   \
    va_start(more, flags);                                                          \
    mode_t mode = (flags & (O_CREAT | O_TMPFILE)) ? va_arg(more, mode_t) : 0;       \
    va_end(more);                                                                   \
    if (changes(flags) && path_is_under(AT_FDCWD, path) && fails("open")) return -1; \
    return real(path, flags, mode);                                                 \
  }
OPEN_CALL(open)
OPEN_CALL(open64)

#define OPENAT_CALL(name)                                                          \
  int name(int folder, const char* path, int flags, ...) {                         \
    REAL(int, name, int, const char*, int, ...);                                   \
    va_list more;                                                                  \
    va_start(more, flags);                                                         \
    mode_t mode = (flags & (O_CREAT | O_TMPFILE)) ? va_arg(more, mode_t) : 0;      \
    va_end(more);                                                                  \
    if (changes(flags) && path_is_under(folder, path) && fails("open")) return -1; \
    return real(folder, path, flags, mode);                                        \
  }
OPENAT_CALL(openat)
OPENAT_CALL(openat64)

#define MKSTEMP_CALL(name)                                                       \
  int name(char* pattern, int flags) {                                           \
    REAL(int, name, char*, int);                                                 \
    if (path_is_under(AT_FDCWD, pattern) && fails("mkostemp")) return -1;        \
    return real(pattern, flags);                                                 \
  }
MKSTEMP_CALL(mkostemp)
MKSTEMP_CALL(mkostemp64)
