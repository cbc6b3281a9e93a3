// Two shared libraries with alkn_cuda.cu, compiled for different architectures, in one process:
// both tables are there, and none outlives its library. No device is needed.
#include <dlfcn.h>

#include <alkn/tensor/cuda_table.hpp>
#include <cstdio>

namespace {

int num_tables() {
  int count = 0;
  for (const auto* table = alkn::detail::cuda_tables.load(); table != nullptr;
       table = table->next.load()) {
    ++count;
  }
  return count;
}

bool expect(int want, const char* when) {
  if (num_tables() == want) return true;
  std::printf("expected %d tables %s, got %d\n", want, when, num_tables());
  return false;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) return 2;
  void* libraries[2];
  for (int i = 0; i < 2; ++i) {
    libraries[i] = dlopen(argv[i + 1], RTLD_NOW | RTLD_LOCAL);
    if (libraries[i] == nullptr) {
      std::puts(dlerror());
      return 1;
    }
    if (!expect(i + 1, "after loading")) return 1;
  }
  dlclose(libraries[0]);  // the loader may keep it: symbols that are unique in a process do that
  int loaded = 1;
  if (dlopen(argv[1], RTLD_NOW | RTLD_NOLOAD) != nullptr) ++loaded;
  if (!expect(loaded, "after unloading one, of the libraries that are left")) return 1;
  std::puts("two libraries, two tables, and none without its library");
  return 0;
}
