/* A library to preload: clocks that jump, for this process and its threads.
 *
 *   clock_shim_set(which, seed, every, most_s)
 *     which   1: the wall clock; 2: the monotonic clock, forwards only; 4: the monotonic clock, back and forth
 *     every   one reading in so many changes the offset
 *     most_s  seconds that an offset may reach, either way
 *
 * Until it is called, and after clock_shim_set(0, ...), the clocks are right. Kernels promise that the monotonic clock never goes
 * back; virtual machines have broken that promise.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static int which;
static uint64_t state;
static long every = 1;
static double most_s, wall_s, monotonic_s;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;

void clock_shim_set(int clocks, long seed, long one_in, double most) {
  pthread_mutex_lock(&mutex);
  which = clocks, state = (uint64_t)seed * 2654435761u + 88172645463325252u, every = one_in, most_s = most;
  wall_s = monotonic_s = 0;
  pthread_mutex_unlock(&mutex);
}

static uint64_t next(void) {  /* xorshift64: Marsaglia 2003 */
  state ^= state << 13, state ^= state >> 7, state ^= state << 17;
  return state;
}

static double jump(void) { return ((double)(next() >> 11) / 9007199254740992.0 * 2 - 1) * most_s; }

static void add(struct timespec* at, double seconds) {
  int64_t nanoseconds = (int64_t)at->tv_sec * 1000000000 + at->tv_nsec + (int64_t)(seconds * 1e9);
  if (nanoseconds < 0) nanoseconds = 0;
  at->tv_sec = nanoseconds / 1000000000, at->tv_nsec = nanoseconds % 1000000000;
}

int clock_gettime(clockid_t clock, struct timespec* at) {
  static int (*real)(clockid_t, struct timespec*);
  if (!real) real = (int (*)(clockid_t, struct timespec*))dlsym(RTLD_NEXT, "clock_gettime");
  const int result = real(clock, at);
  if (result != 0 || which == 0) return result;
  pthread_mutex_lock(&mutex);
  if (clock == CLOCK_REALTIME && (which & 1)) {
    if (next() % (uint64_t)every == 0) wall_s = jump();
    add(at, wall_s);
  } else if ((clock == CLOCK_MONOTONIC || clock == CLOCK_MONOTONIC_RAW) && (which & 6)) {
    if (next() % (uint64_t)every == 0) {
      const double by = jump();
      /* forwards: not beyond what 64 bits of nanoseconds hold */
      monotonic_s = (which & 4) ? by : monotonic_s > 1e9 ? monotonic_s : monotonic_s + (by < 0 ? -by : by);
    }
    add(at, monotonic_s);
  }
  pthread_mutex_unlock(&mutex);
  return result;
}

/* Waits until a time of the monotonic clock that the caller has computed from jumping readings: as long as is left of it, at
 * most a second, on the clock that the kernel knows. */
static struct timespec until(const struct timespec* wanted) {
  struct timespec now, end;
  syscall(SYS_clock_gettime, CLOCK_MONOTONIC, &now);
  pthread_mutex_lock(&mutex);
  double left = (double)(wanted->tv_sec - now.tv_sec) + (double)(wanted->tv_nsec - now.tv_nsec) / 1e9 - monotonic_s;
  pthread_mutex_unlock(&mutex);
  if (left < 0) left = 0;
  if (left > 1) left = 1;
  end = now;
  add(&end, left);
  return end;
}

int clock_nanosleep(clockid_t clock, int flags, const struct timespec* wanted, struct timespec* left) {
  static int (*real)(clockid_t, int, const struct timespec*, struct timespec*);
  if (!real) real = (int (*)(clockid_t, int, const struct timespec*, struct timespec*))dlsym(RTLD_NEXT, "clock_nanosleep");
  if (!(which & 6) || clock != CLOCK_MONOTONIC || !(flags & TIMER_ABSTIME)) return real(clock, flags, wanted, left);
  const struct timespec end = until(wanted);
  return real(clock, flags, &end, left);
}

int sem_clockwait(sem_t* semaphore, clockid_t clock, const struct timespec* wanted) {
  static int (*real)(sem_t*, clockid_t, const struct timespec*);
  if (!real) real = (int (*)(sem_t*, clockid_t, const struct timespec*))dlsym(RTLD_NEXT, "sem_clockwait");
  if (!(which & 6) || clock != CLOCK_MONOTONIC) return real(semaphore, clock, wanted);
  const struct timespec end = until(wanted);
  return real(semaphore, clock, &end);
}

int pthread_cond_clockwait(pthread_cond_t* condition, pthread_mutex_t* held, clockid_t clock, const struct timespec* wanted) {
  static int (*real)(pthread_cond_t*, pthread_mutex_t*, clockid_t, const struct timespec*);
  if (!real)
    real = (int (*)(pthread_cond_t*, pthread_mutex_t*, clockid_t, const struct timespec*))dlsym(RTLD_NEXT, "pthread_cond_clockwait");
  if (!(which & 6) || clock != CLOCK_MONOTONIC) return real(condition, held, clock, wanted);
  const struct timespec end = until(wanted);
  return real(condition, held, clock, &end);
}

int gettimeofday(struct timeval* at, void* zone) {
  struct timespec now;
  (void)zone;
  const int result = clock_gettime(CLOCK_REALTIME, &now);
  at->tv_sec = now.tv_sec, at->tv_usec = now.tv_nsec / 1000;
  return result;
}

time_t time(time_t* at) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  if (at) *at = now.tv_sec;
  return now.tv_sec;
}
