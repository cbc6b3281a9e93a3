# The install tree can be moved: nothing in it knows where it stood or where LibTorch was.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

set(alkn_config_dir "${CMAKE_INSTALL_DATADIR}/cmake/alkn")

set(alkn_targets alkn_kernel)
if(TARGET alkn_alkn)
  list(APPEND alkn_targets alkn_base alkn_alkn)
endif()
install(DIRECTORY "${PROJECT_SOURCE_DIR}/include/alkn" DESTINATION "${CMAKE_INSTALL_INCLUDEDIR}")
install(TARGETS ${alkn_targets} EXPORT alkn INCLUDES DESTINATION "${CMAKE_INSTALL_INCLUDEDIR}")
install(EXPORT alkn NAMESPACE alkn:: FILE alknTargets.cmake DESTINATION "${alkn_config_dir}")

configure_package_config_file("${PROJECT_SOURCE_DIR}/cmake/alknConfig.cmake.in"
                              "${PROJECT_BINARY_DIR}/alknConfig.cmake"
                              INSTALL_DESTINATION "${alkn_config_dir}")
write_basic_package_version_file("${PROJECT_BINARY_DIR}/alknConfigVersion.cmake"
                                 VERSION "${PROJECT_VERSION}" COMPATIBILITY SameMinorVersion ARCH_INDEPENDENT)
install(FILES "${PROJECT_BINARY_DIR}/alknConfig.cmake" "${PROJECT_BINARY_DIR}/alknConfigVersion.cmake"
              "${PROJECT_SOURCE_DIR}/cmake/AlknLibTorch.cmake" "${PROJECT_SOURCE_DIR}/cmake/AlknCuda.cmake"
              "${PROJECT_SOURCE_DIR}/cmake/AlknCompiled.cmake" "${PROJECT_SOURCE_DIR}/cmake/AlknDist.cmake"
              "${PROJECT_SOURCE_DIR}/cmake/AlknNccl.cmake"
              "${PROJECT_SOURCE_DIR}/cmake/AlknBuildType.cmake"
        DESTINATION "${alkn_config_dir}")
install(FILES "${PROJECT_SOURCE_DIR}/LICENSE" DESTINATION "${CMAKE_INSTALL_DOCDIR}")
