// Refuses what file systems lack, by the letters in the variable REFUSE: l hard links, f flock, p POSIX locks, m shared memory.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

static int refused(char what) {
  const char *said = getenv("REFUSE");
  return said != NULL && strchr(said, what) != NULL;
}

int link(const char *from, const char *to) {
  if (refused('l')) return errno = EPERM, -1;
  return ((int (*)(const char *, const char *))dlsym(RTLD_NEXT, "link"))(from, to);
}

int linkat(int a, const char *from, int b, const char *to, int flags) {
  if (refused('l')) return errno = EOPNOTSUPP, -1;
  return ((int (*)(int, const char *, int, const char *, int))dlsym(RTLD_NEXT, "linkat"))(a, from, b, to, flags);
}

int flock(int file, int how) {
  if (refused('f')) return errno = ENOLCK, -1;
  return ((int (*)(int, int))dlsym(RTLD_NEXT, "flock"))(file, how);
}

static int locked(const char *name, int file, int what, void *given) {
  if (refused('p') && (what == F_SETLK || what == F_SETLKW || what == F_GETLK)) return errno = EOPNOTSUPP, -1;
  return ((int (*)(int, int, ...))dlsym(RTLD_NEXT, name))(file, what, given);
}

int fcntl(int file, int what, ...) {
  va_list rest;
  va_start(rest, what);
  void *given = va_arg(rest, void *);
  va_end(rest);
  return locked("fcntl", file, what, given);
}

int fcntl64(int file, int what, ...) {
  va_list rest;
  va_start(rest, what);
  void *given = va_arg(rest, void *);
  va_end(rest);
  return locked("fcntl64", file, what, given);
}

void *mmap(void *at, size_t size, int access, int how, int file, off_t offset) {
  if (refused('m') && file >= 0 && (how & MAP_SHARED) && (access & PROT_WRITE)) return errno = ENODEV, MAP_FAILED;
  return ((void *(*)(void *, size_t, int, int, int, off_t))dlsym(RTLD_NEXT, "mmap"))(at, size, access, how, file, offset);
}

void *mmap64(void *at, size_t size, int access, int how, int file, off_t offset) {
  return mmap(at, size, access, how, file, offset);
}
