/* A process that holds one library and calls one of its functions, request by
 * request: worker LIBRARY SYMBOL. Frames go over the socket on descriptor 3, in
 * the machine's byte order; the host is the other end (runtime/worker.go).
 *
 * hello    int32 abi (0: the text says what is wrong), uint32 n, n bytes of text
 * request  uint64 n, n bytes of body
 * answer   any number of: uint32 n (1 to 2^31-1), n bytes of output
 *          then: uint32 2^32-1, int32 result
 */

#include <dlfcn.h>
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { HOST = 3, ABI_NUMBER = 1, ABI_BODY = 2 };

static const uint32_t END = UINT32_MAX;
static const uint32_t MAX_PART = INT32_MAX;

typedef int32_t (*kiln_write)(void *context, const uint8_t *data, size_t len);
typedef int32_t (*number_function)(void);
typedef int32_t (*body_function)(const uint8_t *body, size_t len, kiln_write write, void *context);

/* A host that is gone ends the worker. */
static void put(const void *data, size_t len)
{
	const char *at = data;
	while (len > 0) {
		ssize_t n = write(HOST, at, len);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			_exit(1);
		at += n;
		len -= (size_t)n;
	}
}

static void get(void *data, size_t len)
{
	char *at = data;
	while (len > 0) {
		ssize_t n = read(HOST, at, len);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			_exit(0);
		at += n;
		len -= (size_t)n;
	}
}

static void hello(int32_t abi, const char *text)
{
	uint32_t len = (uint32_t)strlen(text);
	put(&abi, sizeof abi);
	put(&len, sizeof len);
	put(text, len);
}

static int refuse(const char *text)
{
	hello(0, text);
	return 1;
}

static int32_t write_output(void *context, const uint8_t *data, size_t len)
{
	(void)context;
	while (len > 0) {
		uint32_t part = len > MAX_PART ? MAX_PART : (uint32_t)len;
		put(&part, sizeof part);
		put(data, part);
		data += part;
		len -= part;
	}
	return 0;
}

static const void *marker(void *library, const char *symbol, const char *suffix)
{
	char name[512];
	if (snprintf(name, sizeof name, "%s%s", symbol, suffix) >= (int)sizeof name)
		return NULL;
	return dlsym(library, name);
}

int main(int argc, char **argv)
{
	if (argc != 3)
		return 2;
	void *library = dlopen(argv[1], RTLD_NOW | RTLD_LOCAL);
	if (library == NULL)
		return refuse(dlerror());
	void *function = dlsym(library, argv[2]);
	if (function == NULL)
		return refuse(dlerror());

	const int32_t *abi = marker(library, argv[2], "_kiln_abi");
	const char *const *type = marker(library, argv[2], "_kiln_content_type");
	int32_t version = abi == NULL ? ABI_NUMBER : *abi;
	if (version != ABI_NUMBER && version != ABI_BODY)
		return refuse("its _kiln_abi is neither 1 nor 2");
	hello(version, type == NULL ? "" : *type);

	uint8_t *body = NULL;
	size_t capacity = 0;
	for (;;) {
		uint64_t len;
		get(&len, sizeof len);
		if (len > capacity || body == NULL) {
			free(body);
			capacity = len < 4096 ? 4096 : (size_t)len;
			body = malloc(capacity);
			if (body == NULL) {
				fputs("kiln: no memory for the body\n", stderr);
				return 1;
			}
		}
		get(body, (size_t)len);

		int32_t result;
		if (version == ABI_NUMBER)
			result = ((number_function)(uintptr_t)function)();
		else
			result = ((body_function)(uintptr_t)function)(body, (size_t)len, write_output, NULL);
		fflush(NULL);
		put(&END, sizeof END);
		put(&result, sizeof result);
	}
}
