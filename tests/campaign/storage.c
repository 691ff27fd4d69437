/* Counts what a process does to files below one folder, and lets the n-th of these operations fail or end the
 * process. Loaded before the C library (LD_PRELOAD), so that it sees Python, HDF5, Arrow, FFmpeg and torch alike.
 * The counter lies in memory that forked processes share: their operations are counted together. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum { COUNT, FAIL, KILL_BEFORE, KILL_HALF, KILL_AFTER, VANISH };

static struct shared {
    atomic_long done, target;
    int mode, error, group;
    char folder[PATH_MAX], moved[PATH_MAX], hit[PATH_MAX + 64];
    int trace;
} *state;

__attribute__((constructor)) static void begin(void) {
    state = mmap(NULL, sizeof *state, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    state->trace = -1;
}

/* From Python: what to watch, and what to do at which operation (0: nothing, only count). */
void storage_arm(const char *folder, const char *moved, long target, int mode, int error, int group, int trace) {
    snprintf(state->folder, sizeof state->folder, "%s", folder);
    snprintf(state->moved, sizeof state->moved, "%s", moved);
    state->mode = mode, state->error = error, state->group = group, state->trace = trace;
    state->hit[0] = 0;
    atomic_store(&state->done, 0);
    atomic_store(&state->target, target);
}
long storage_done(void) { return atomic_load(&state->done); }
const char *storage_hit(void) { return state->hit; }

static void end_process(void) {
    syscall(SYS_kill, state->group ? 0 : getpid(), SIGKILL);
    for (;;) pause();
}

static int below(const char *path) {
    size_t n = strlen(state->folder);
    return n && !strncmp(path, state->folder, n) && (path[n] == '/' || !path[n]);
}

static int link_of(const char *link, char *to) {
    ssize_t n = readlink(link, to, PATH_MAX - 1);
    if (n < 0) return 0;
    to[n] = 0;
    return 1;
}

static int path_of(int fd, char *to) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    return link_of(link, to);
}

static int absolute(int at, const char *path, char *to) {
    char base[PATH_MAX];
    if (path[0] == '/') return snprintf(to, PATH_MAX, "%s", path) < PATH_MAX;
    if (at == AT_FDCWD ? !getcwd(base, sizeof base) : !path_of(at, base)) return 0;
    return snprintf(to, PATH_MAX, "%s/%s", base, path) < PATH_MAX;
}

/* Whether this operation is the one: 0 to go on as ever, or the mode. Killing before is done here. */
static int reached(const char *what, const char *path) {
    if (!below(path)) return 0;
    long number = atomic_fetch_add(&state->done, 1) + 1;
    if (state->trace >= 0) {
        char line[PATH_MAX + 64];
        int n = snprintf(line, sizeof line, "%ld %s %s\n", number, what, path + strlen(state->folder));
        syscall(SYS_write, state->trace, line, n);
    }
    if (number != atomic_load(&state->target)) return 0;
    snprintf(state->hit, sizeof state->hit, "%s %s", what, path + strlen(state->folder));
    if (state->mode == KILL_BEFORE) end_process();
    if (state->mode == VANISH) syscall(SYS_rename, state->folder, state->moved);
    return state->mode == COUNT || state->mode == VANISH ? 0 : state->mode;
}

static int at_path(const char *what, int at, const char *path) {
    char full[PATH_MAX];
    return path && state->folder[0] && absolute(at, path, full) ? reached(what, full) : 0;
}

static int at_file(const char *what, int fd) {
    char full[PATH_MAX];
    return state->folder[0] && fd > 2 && fd != state->trace && path_of(fd, full) ? reached(what, full) : 0;
}

#define REAL(name) static __typeof__(&name) real; if (!real) real = dlsym(RTLD_NEXT, #name)
#define AROUND(hit, call, failed) do { \
    int hit_ = (hit); \
    if (hit_ == FAIL) { errno = state->error; return failed; } \
    __typeof__(call) result_ = call; \
    if (hit_ == KILL_AFTER || hit_ == KILL_HALF) end_process(); \
    return result_; } while (0)

#define WRITES(flags) ((flags) & (O_WRONLY | O_RDWR | O_CREAT | O_TRUNC))
#define MODE(flags) mode_t mode = 0; \
    if ((flags) & (O_CREAT | O_TMPFILE)) { va_list rest; va_start(rest, flags); mode = va_arg(rest, int); va_end(rest); }

int open(const char *path, int flags, ...) {
    MODE(flags) REAL(open);
    AROUND(WRITES(flags) ? at_path("open", AT_FDCWD, path) : 0, real(path, flags, mode), -1);
}
int open64(const char *path, int flags, ...) {
    MODE(flags) REAL(open64);
    AROUND(WRITES(flags) ? at_path("open", AT_FDCWD, path) : 0, real(path, flags, mode), -1);
}
int openat(int at, const char *path, int flags, ...) {
    MODE(flags) REAL(openat);
    AROUND(WRITES(flags) ? at_path("open", at, path) : 0, real(at, path, flags, mode), -1);
}
int openat64(int at, const char *path, int flags, ...) {
    MODE(flags) REAL(openat64);
    AROUND(WRITES(flags) ? at_path("open", at, path) : 0, real(at, path, flags, mode), -1);
}
FILE *fopen(const char *path, const char *how) {
    REAL(fopen);
    AROUND(strpbrk(how, "wa+") ? at_path("open", AT_FDCWD, path) : 0, real(path, how), NULL);
}
FILE *fopen64(const char *path, const char *how) {
    REAL(fopen64);
    AROUND(strpbrk(how, "wa+") ? at_path("open", AT_FDCWD, path) : 0, real(path, how), NULL);
}
/* Half of it is written, and then: no room (as the system does), or the end. */
#define HALF(hit, half, full) do { \
    int hit_ = (hit); \
    if (hit_ == FAIL) { errno = state->error; return -1; } \
    if (hit_ == KILL_HALF) { half; end_process(); } \
    ssize_t result_ = full; \
    if (hit_ == KILL_AFTER) end_process(); \
    return result_; } while (0)

ssize_t write(int fd, const void *data, size_t size) {
    REAL(write);
    HALF(at_file("write", fd), real(fd, data, size / 2), real(fd, data, size));
}
ssize_t pwrite(int fd, const void *data, size_t size, off_t at) {
    REAL(pwrite);
    HALF(at_file("write", fd), real(fd, data, size / 2, at), real(fd, data, size, at));
}
ssize_t pwrite64(int fd, const void *data, size_t size, off64_t at) {
    REAL(pwrite64);
    HALF(at_file("write", fd), real(fd, data, size / 2, at), real(fd, data, size, at));
}
ssize_t writev(int fd, const struct iovec *parts, int n) {
    REAL(writev);
    HALF(at_file("write", fd), real(fd, parts, n / 2), real(fd, parts, n));
}
size_t fwrite(const void *data, size_t size, size_t n, FILE *file) {
    REAL(fwrite);
    AROUND(at_file("write", fileno(file)), real(data, size, n, file), 0);
}
ssize_t sendfile(int to, int from, off_t *at, size_t n) {
    REAL(sendfile);
    AROUND(at_file("write", to), real(to, from, at, n), -1);
}
ssize_t sendfile64(int to, int from, off64_t *at, size_t n) {
    REAL(sendfile64);
    AROUND(at_file("write", to), real(to, from, at, n), -1);
}
ssize_t copy_file_range(int from, off64_t *a, int to, off64_t *b, size_t n, unsigned flags) {
    REAL(copy_file_range);
    AROUND(at_file("write", to), real(from, a, to, b, n, flags), -1);
}
int ftruncate(int fd, off_t size) { REAL(ftruncate); AROUND(at_file("truncate", fd), real(fd, size), -1); }
int ftruncate64(int fd, off64_t size) { REAL(ftruncate64); AROUND(at_file("truncate", fd), real(fd, size), -1); }
int fsync(int fd) { REAL(fsync); AROUND(at_file("fsync", fd), real(fd), -1); }
int fdatasync(int fd) { REAL(fdatasync); AROUND(at_file("fsync", fd), real(fd), -1); }
int rename(const char *from, const char *to) {
    REAL(rename);
    AROUND(at_path("rename", AT_FDCWD, to), real(from, to), -1);
}
int renameat(int a, const char *from, int b, const char *to) {
    REAL(renameat);
    AROUND(at_path("rename", b, to), real(a, from, b, to), -1);
}
int renameat2(int a, const char *from, int b, const char *to, unsigned flags) {
    REAL(renameat2);
    AROUND(at_path("rename", b, to), real(a, from, b, to, flags), -1);
}
int unlink(const char *path) { REAL(unlink); AROUND(at_path("unlink", AT_FDCWD, path), real(path), -1); }
int remove(const char *path) { REAL(remove); AROUND(at_path("unlink", AT_FDCWD, path), real(path), -1); }
int rmdir(const char *path) { REAL(rmdir); AROUND(at_path("rmdir", AT_FDCWD, path), real(path), -1); }
int unlinkat(int at, const char *path, int flags) {
    REAL(unlinkat);
    AROUND(at_path(flags & AT_REMOVEDIR ? "rmdir" : "unlink", at, path), real(at, path, flags), -1);
}
int mkdir(const char *path, mode_t mode) {
    REAL(mkdir);
    AROUND(at_path("mkdir", AT_FDCWD, path), real(path, mode), -1);
}
int mkdirat(int at, const char *path, mode_t mode) {
    REAL(mkdirat);
    AROUND(at_path("mkdir", at, path), real(at, path, mode), -1);
}
int chmod(const char *path, mode_t mode) {
    REAL(chmod);
    AROUND(at_path("chmod", AT_FDCWD, path), real(path, mode), -1);
}
