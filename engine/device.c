/* device.c: see device.h. SPDX-License-Identifier: AGPL-3.0-or-later */
#include "engine/device.h"

#include <ctype.h>
#include <dirent.h>
#include <dlfcn.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "proto/err.h"
#include "proto/text.h"

static ggml_backend_dev_t handle;
static struct engine_device info;

/* --- back ends, by file --------------------------------------------------------------------------- */

/* Debian's: PREFIX/lib/TRIPLET/ggml/backends0 beside libggml.so.0. Where the libraries of another root are used, $ESSAIM_BACKENDS says. */
static bool folder_of_back_ends(char out[PATH_MAX])
{
	const char *set = getenv("ESSAIM_BACKENDS");
	char library[PATH_MAX];
	Dl_info found;
	char *slash;

	if (set && *set)
		return text_copy(out, PATH_MAX, set) == 0;
	if (!dladdr((void *)(uintptr_t)ggml_backend_load, &found) || !realpath(found.dli_fname, library))
		return false;
	slash = strrchr(library, '/');
	*slash = 0;
	return snprintf(out, PATH_MAX, "%s/ggml/backends0", library) < PATH_MAX && access(out, R_OK) == 0;
}

/* How well a variant of the CPU's back end suits this machine; 0: it would not run. */
static int score_of(const char *path)
{
	void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
	int (*score)(void), result = 0;

	if (!library)
		return 0;
	*(void **)&score = dlsym(library, "ggml_backend_score");
	result = score ? score() : 1;
	dlclose(library);
	return result;
}

static bool load_best_cpu(const char *folder)
{
	char best[PATH_MAX + 256] = "", path[PATH_MAX + 256];
	int most = 0, score;
	DIR *dir = opendir(folder);

	for (struct dirent *entry; dir && (entry = readdir(dir));) {
		const char *end = strrchr(entry->d_name, '.');

		if (strncmp(entry->d_name, "libggml-cpu", 11) || !end || strcmp(end, ".so"))
			continue;
		snprintf(path, sizeof path, "%s/%s", folder, entry->d_name);
		score = score_of(path);
		if (score > most) {
			most = score;
			text_copy(best, sizeof best, path);
		}
	}
	if (dir)
		closedir(dir);
	return most > 0 && ggml_backend_load(best);
}

void device_open_cpu(void)
{
	ggml_backend_dev_t cpu = ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU);
	char folder[PATH_MAX];

	if (!cpu && !(folder_of_back_ends(folder) && load_best_cpu(folder)))
		ggml_backend_load_all();         /* a ggml that was put together otherwise */
	cpu = ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU);
	if (cpu) {
		ggml_backend_dev_get_extra_bufts_t get = (ggml_backend_dev_get_extra_bufts_t)ggml_backend_reg_get_proc_address(
			ggml_backend_dev_backend_reg(cpu), "ggml_backend_dev_get_extra_bufts");
		ggml_backend_t backend = ggml_backend_dev_init(cpu, NULL);

		if (get)
			get(cpu);                /* asks the kernel for matrix units */
		ggml_backend_free(backend);
	}
}

/* --- the card -------------------------------------------------------------------------------------- */

/* Drivers look at these when they are loaded. */
static void set_environment(const char *number)
{
	/* A cache would be a file that every engine writes to, and code from it would run: models must not meet there. */
	setenv("MESA_SHADER_CACHE_DISABLE", "true", 1);
	/* llvmpipe compiles for minutes otherwise, and nobody waits for a software device's speed. */
	setenv("GALLIVM_PERF", "nopt", 0);
	/* Layers are programs that somebody put between: overlays, recorders. */
	setenv("VK_LOADER_LAYERS_DISABLE", "~all~", 1);
	if (number)
		setenv("GGML_VK_VISIBLE_DEVICES", number, 1);
	else
		unsetenv("GGML_VK_VISIBLE_DEVICES");     /* then ggml leaves out software devices */
}

static bool is_software(const char *description)
{
	return !strncmp(description, "llvmpipe", 8) || !strncmp(description, "SwiftShader", 11);
}

static void describe(ggml_backend_dev_t device)
{
	size_t free_bytes = 0, total = 0, n = 0;

	for (const char *p = ggml_backend_dev_description(device); *p && n + 1 < sizeof info.name; p++)
		info.name[n++] = isprint((unsigned char)*p) ? *p : '?';
	info.name[n] = 0;
	ggml_backend_dev_memory(device, &free_bytes, &total);
	info.bytes = total;
	info.free_bytes = free_bytes < total ? free_bytes : total;
	info.kind = is_software(info.name) ? DEVICE_SOFTWARE
		    : ggml_backend_dev_type(device) == GGML_BACKEND_DEVICE_TYPE_GPU ? DEVICE_CARD : DEVICE_INTEGRATED;
}

/* NVIDIA's own driver opens files whenever it wants something, and speaks to /dev/nvidiactl. */
static bool is_foreign(const char *description)
{
	return !strncmp(description, "NVIDIA", 6) && access("/proc/driver/nvidia/version", F_OK) == 0;
}

bool device_is_wish(const char *text)
{
	return !strcmp(text, "auto") || (!strncmp(text, "vulkan/", 7) && isdigit((unsigned char)text[7]) && strlen(text) < 10 &&
					 text[7 + strspn(text + 7, "0123456789")] == 0);
}

int device_open(const char *wanted, char *why, size_t why_size)
{
	bool any = !strcmp(wanted, "auto");
	const char *number = any ? NULL : strchr(wanted, '/') + 1;
	char path[PATH_MAX + 32], folder[PATH_MAX];
	ggml_backend_reg_t vulkan = NULL;
	ggml_backend_t backend;

	set_environment(number);
	if (!folder_of_back_ends(folder))
		folder[0] = 0;
	snprintf(path, sizeof path, "%s/libggml-vulkan.so", folder);
	if (access(path, R_OK) < 0) {
		snprintf(why, why_size, "ggml's Vulkan back end is not installed (Debian: libggml0-backend-vulkan and mesa-vulkan-drivers)");
		return ERR_UNSUPPORTED;
	}
	vulkan = ggml_backend_load(path);
	for (size_t i = 0; vulkan && i < ggml_backend_reg_dev_count(vulkan); i++) {
		ggml_backend_dev_t device = ggml_backend_reg_dev_get(vulkan, i);

		describe(device);
		if (any && info.kind != DEVICE_CARD)
			continue;
		if (is_foreign(info.name)) {
			snprintf(why, why_size, "%s has NVIDIA's own driver, which does not work within the engine's sandbox; Mesa's (nouveau, NVK) may", info.name);
			memset(&info, 0, sizeof info);
			return ERR_UNSUPPORTED;
		}
		backend = ggml_backend_dev_init(device, NULL);   /* the driver's threads start, and its files are opened */
		if (!backend)
			continue;
		ggml_backend_free(backend);
		handle = device;
		return 0;
	}
	memset(&info, 0, sizeof info);
	if (any)
		snprintf(why, why_size, "Vulkan finds no card with memory of its own (is the driver there, and may this user open /dev/dri/renderD*?)");
	else
		snprintf(why, why_size, "Vulkan has no device %s (`vulkaninfo --summary` lists them; may this user open /dev/dri/renderD*?)", number);
	return ERR_UNSUPPORTED;
}

ggml_backend_dev_t device_handle(void)
{
	return handle;
}

const char *device_log_name(void)
{
	return handle ? ggml_backend_dev_name(handle) : "";
}

const char *device_back_end(void)
{
	return handle ? "vulkan" : "cpu";
}

const struct engine_device *device_info(void)
{
	return &info;
}

enum sandbox_for device_needs(void)
{
	return info.kind == DEVICE_NONE ? SANDBOX_FOR_CPU : info.kind == DEVICE_SOFTWARE ? SANDBOX_FOR_SOFTWARE : SANDBOX_FOR_CARD;
}
