# The engine's sources and the flags of each instruction set's unit; shared by the extension and the C++ tests.
# No unit may fuse multiply and add on its own: the kernels say where, and the tests hold them to it.

set(CODELLAMA_NATIVE_OPTIMIZE -O3 CACHE STRING "optimization of the engine's sources, whatever the build type")
set(CODELLAMA_NATIVE_OPTIONS ${CODELLAMA_NATIVE_OPTIMIZE} -ffp-contract=off -fno-math-errno)
set(CODELLAMA_NATIVE_DEFINITIONS "")
set(here ${CMAKE_CURRENT_LIST_DIR})
set(CODELLAMA_NATIVE_SOURCES
    ${here}/attend_alone.cpp ${here}/buffer.cpp ${here}/dispatch.cpp ${here}/exact.cpp ${here}/forward.cpp
    ${here}/isa_portable.cpp
    ${here}/kv.cpp ${here}/loading.cpp ${here}/pack.cpp ${here}/phases.cpp ${here}/plan.cpp ${here}/probe.cpp ${here}/products.cpp
    ${here}/prompt.cpp ${here}/repeats.cpp ${here}/rows.cpp ${here}/threads.cpp ${here}/unpack.cpp)

if(CMAKE_OSX_ARCHITECTURES)
  set(processor ${CMAKE_OSX_ARCHITECTURES})
else()
  set(processor ${CMAKE_SYSTEM_PROCESSOR})
endif()

if(processor MATCHES "^(x86_64|AMD64|amd64)$")
  list(APPEND CODELLAMA_NATIVE_DEFINITIONS CODELLAMA_X86)
  list(APPEND CODELLAMA_NATIVE_SOURCES ${here}/isa_amx.cpp ${here}/isa_avx2.cpp ${here}/isa_avx512.cpp
       ${here}/isa_avx512bf16.cpp)
  set(avx2 -mavx2 -mfma -mf16c)
  set(avx512 ${avx2} -mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx512vnni)
  if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
    # GCC 12 warns about its own intrinsics' deliberately undefined operands (GCC bug 105593).
    list(APPEND avx512 -Wno-uninitialized -Wno-maybe-uninitialized)
  endif()
  include(CheckCXXCompilerFlag)
  check_cxx_compiler_flag(-mavxvnni CODELLAMA_HAS_AVXVNNI)  # GCC 11, Clang 12
  if(CODELLAMA_HAS_AVXVNNI)
    list(APPEND CODELLAMA_NATIVE_DEFINITIONS CODELLAMA_AVXVNNI)
    list(APPEND CODELLAMA_NATIVE_SOURCES ${here}/isa_avxvnni.cpp)
    set_source_files_properties(${here}/isa_avxvnni.cpp PROPERTIES COMPILE_OPTIONS "${avx2};-mavxvnni")
  endif()
  set_source_files_properties(${here}/isa_avx2.cpp PROPERTIES COMPILE_OPTIONS "${avx2}")
  set_source_files_properties(${here}/isa_avx512.cpp PROPERTIES COMPILE_OPTIONS "${avx512}")
  set_source_files_properties(${here}/isa_avx512bf16.cpp PROPERTIES COMPILE_OPTIONS "${avx512};-mavx512bf16")
  set_source_files_properties(${here}/isa_amx.cpp PROPERTIES COMPILE_OPTIONS "${avx512};-mavx512vbmi;-mavx512bf16;-mamx-tile;-mamx-bf16")
elseif(processor MATCHES "^(aarch64|arm64|ARM64)$")
  list(APPEND CODELLAMA_NATIVE_DEFINITIONS CODELLAMA_NEON)
  list(APPEND CODELLAMA_NATIVE_SOURCES ${here}/isa_i8mm.cpp ${here}/isa_neon.cpp)
  set_source_files_properties(${here}/isa_neon.cpp PROPERTIES COMPILE_OPTIONS "-march=armv8.2-a+dotprod")
  set_source_files_properties(${here}/isa_i8mm.cpp PROPERTIES COMPILE_OPTIONS "-march=armv8.2-a+dotprod+i8mm")
endif()
