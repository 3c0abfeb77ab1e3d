/* sanitized.h: whether this is built to be watched by AddressSanitizer or ThreadSanitizer (configure --enable-sanitize). Their
 * shadows are terabytes of address space, and they read /proc and stop threads to find leaks.
 *
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#ifndef PROTO_SANITIZED_H
#define PROTO_SANITIZED_H

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define SANITIZED 1
#endif
#endif
#ifndef SANITIZED
#define SANITIZED 0
#endif

#endif
