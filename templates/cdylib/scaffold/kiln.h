/* The C ABI of Kiln's cdylib functions. Using this file is not required. */

#ifndef KILN_H
#define KILN_H

#include <stddef.h>
#include <stdint.h>

/* int32_t NAME(void): the result, in decimal, is the response. This is what a
 * library without a marker has. */
#define KILN_ABI_NUMBER 1

/* int32_t NAME(const uint8_t *body, size_t len, kiln_write write, void *context):
 * the request's body is read only and gone after the call; what is written is
 * the response. The result is 0, or an HTTP status from 200 to 599; anything
 * else is an error. */
#define KILN_ABI_BODY 2

/* Appends to the response; data may be reused at once. Returns 0. */
typedef int32_t (*kiln_write)(void *context, const uint8_t *data, size_t len);

/* Exports the markers of a function: its ABI and its Content-Type. */
#define KILN_EXPORT(name, abi, type)            \
	const int32_t name##_kiln_abi = (abi);  \
	const char *const name##_kiln_content_type = (type)

#endif
