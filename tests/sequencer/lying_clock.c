/* Preloaded into a server by tests: its wall clock is off by what a file says.
 *
 * The file holds one signed 64-bit number of nanoseconds, in the machine's byte order, and is mapped:
 * a test writes it, and the clock steps at once. Every other clock is left alone, as when an operator
 * or NTP sets the time. The real time is read by the system call itself.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define BILLION 1000000000LL

static const volatile int64_t *offset_ns;

__attribute__((constructor)) static void map_offset(void)
{
    const char *path = getenv("LYING_CLOCK_FILE");
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    void *found;

    if (file < 0)
        return;
    found = mmap(NULL, sizeof(int64_t), PROT_READ, MAP_SHARED, file, 0);
    close(file);
    if (found != MAP_FAILED)
        offset_ns = found;
}

int clock_gettime(clockid_t which, struct timespec *time)
{
    int failed = (int)syscall(SYS_clock_gettime, which, time);

    if (!failed && offset_ns && (which == CLOCK_REALTIME || which == CLOCK_REALTIME_COARSE)) {
        int64_t now = time->tv_sec * BILLION + time->tv_nsec + *offset_ns;
        time->tv_sec = now / BILLION;
        time->tv_nsec = now % BILLION;
    }
    return failed;
}

int gettimeofday(struct timeval *restrict time, void *restrict zone)
{
    struct timespec now;
    int failed = clock_gettime(CLOCK_REALTIME, &now);

    (void)zone;
    if (!failed && time) {
        time->tv_sec = now.tv_sec;
        time->tv_usec = now.tv_nsec / 1000;
    }
    return failed;
}

time_t time(time_t *where)
{
    struct timespec now;

    clock_gettime(CLOCK_REALTIME, &now);
    if (where)
        *where = now.tv_sec;
    return now.tv_sec;
}
